"""Needle in a haystack with the embedded model: needles x depths x 64 to 16,384 frames, with bars.

python -m launch.evaluate --config=configs/eval/needle.py
Shorter: --config=configs/eval/needle.py:1024 (the longest haystack). In one's own film: --config.haystack=FILE, with a
longest haystack that it fills at config.run.fps. One variant: --only=texture.
Source: paper 4.7, Figure 4; docs/needle.md.
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

LENGTHS = (64, 256, 1024, 4096, 8192, 16384)
LONGEST_WITH_BARS = 8192  # with the bar of the shorter ones
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def get_config(longest: str = "16384") -> ConfigDict:
    config = ConfigDict()
    config.benchmark = "needle"
    config.model = ""  # embedded
    config.seed = 40
    config.haystack = ""  # a video file instead of generated texture
    config.order = ("texture", "movers", "direction", "direction_movers", "chain", "chain_decoys", "files")
    config.run = ConfigDict(
        {
            "fps": 1.0,
            "max_frames": 0,
            "keep_rate": 0.0,
            "max_new_tokens": 128,
            "questions_per_ask": 4,
            "writers": 2,
            "keep_videos": False,
        }
    )
    frames = [length for length in LENGTHS if length <= int(longest)] or [int(longest)]

    def variant(
        needle: str,
        bars: Mapping[str, Mapping[str, float]] | None = None,
        mover_share: float = 0.0,
        num_haystacks: int = 4,
        lengths: tuple[int, ...] = LENGTHS,
        **settings,
    ) -> ConfigDict:
        """Cells of a kind of needle; without bars what is found is told, and nothing hangs on it."""
        used = tuple(length for length in frames if length in lengths) or (frames[-1],)
        plain = {
            "needle": needle,
            "decoys": False,
            "frames": used,
            "depths": DEPTHS,
            "num_needles": 16,  # a length has 5 x 16: needles of 1, 2, 4 and 6 frames from each place of a group on
            "needle_frames": (1, 2, 4, 6),
            "as_files": False,
            "haystack": {
                "file": config.get_ref("haystack"),
                "num_haystacks": num_haystacks,
                "num_frames": max(used) if mover_share else frames[-1],  # haystacks without movers are shared
                "mover_share": mover_share,
                "size": (112, 112),
                "fps": config.run.get_ref("fps"),
                "frames_per_group": 4,
            },
            # Nothing moves where cards are hidden, and no card is shown where movers are.
            "sanity": {
                "card": {"question": "In which direction does the shape move?", "kind": "direction"},
            }.get(needle, {"question": "Which digit is on the card?", "kind": "digit"}),
        }
        judged = {
            "at_least": {metric: dict(rows) for metric, rows in (bars or {}).items()},
            "at_chance": (),
            "max_broken": 0,
            "reported_only": bars is None,
        }
        return ConfigDict({"settings": {**plain, **settings}, "bars": judged})

    def cards(at_least: Mapping[int, float]) -> dict[str, dict[str, float]]:
        """Bars of card questions by length; wherever there is one, the needle's group is kept and answers are sound."""
        named = {f"cards, {length:5d} frames": bar for length, bar in at_least.items() if length in frames}
        return {"accuracy": named, "needle kept": dict.fromkeys(named, 0.99), "well formed": dict.fromkeys(named, 0.99)}

    in_texture = {length: 0.97 if length <= LONGEST_WITH_BARS else 0.95 for length in LENGTHS}
    config.variants = ConfigDict()
    config.variants.texture = variant("card", cards(in_texture))
    config.variants.movers = variant("card", cards({8192: 0.90}), mover_share=0.1, lengths=(1024, 8192))
    directions = {"num_needles": 12, "needle_frames": (4, 6, 8)}
    config.variants.direction = variant("mover", **directions)
    config.variants.direction_movers = variant("mover", mover_share=0.1, lengths=(64, 256, 1024, 8192), **directions)
    chain = {"num_needles": 12, "needle_frames": (4, 6, 8)}
    config.variants.chain = variant("chain", **chain)
    config.variants.chain_decoys = variant("chain", decoys=True, **chain)
    config.variants.files = variant(
        "card",
        {"same as file": {f"cards, {length:5d} frames": 1.0 for length in (64, 256, 1024, 8192) if length in frames}},
        lengths=(64, 256, 1024, 8192),
        depths=(0.25, 1.0),
        num_needles=2,
        as_files=True,
    )
    return config.lock()
