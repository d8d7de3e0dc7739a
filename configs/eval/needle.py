"""Needle in a haystack with the embedded model: needles x depths x 64 to 16,384 frames, with bars.

python -m launch.evaluate --config=configs/eval/needle.py
Shorter: --config=configs/eval/needle.py:1024 (the longest haystack). In one's own film: --config.haystack=FILE, with a
longest haystack that it fills at config.run.fps. One variant: --only=texture.
Source: paper 4.7, Figure 4; docs/needle.md.
"""

from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

LENGTHS = (64, 256, 1024, 4096, 8192, 16384)
BARS = {**dict.fromkeys(LENGTHS, 0.97), 16384: 0.95}  # of card questions in texture
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
    frames = tuple(length for length in LENGTHS if length <= int(longest)) or (int(longest),)
    some = tuple(length for length in frames if length in (64, 256, 1024, 8192)) or frames
    movers = {"needle": "mover", "num_needles": 12, "needle_frames": (4, 6, 8)}
    chain = {**movers, "needle": "chain"}
    config.variants = ConfigDict()
    config.variants.texture = variant(config, frames, bars=cards({length: BARS.get(length, 0.97) for length in frames}))
    config.variants.movers = variant(
        config, some, mover_share=0.1, bars=cards({length: 0.90 for length in some if length == 8192})
    )
    # What is found is told, and nothing hangs on it.
    config.variants.direction = variant(config, frames, **movers)
    config.variants.direction_movers = variant(config, some, mover_share=0.1, **movers)
    config.variants.chain = variant(config, frames, **chain)
    config.variants.chain_decoys = variant(config, frames, decoys=True, **chain)
    same = {"same as file": {row(length): 1.0 for length in some}}
    config.variants.files = variant(config, some, bars=same, depths=(0.25, 1.0), num_needles=2, as_files=True)
    return config.lock()


def variant(
    config: ConfigDict,
    frames: Sequence[int],
    bars: Mapping[str, Mapping[str, float]] | None = None,
    mover_share: float = 0.0,
    **settings,
) -> ConfigDict:
    """Cells of a kind of needle, by default of cards; without bars it is reported only."""
    plain = {
        "needle": "card",
        "decoys": False,
        "frames": tuple(frames),
        "depths": DEPTHS,
        "num_needles": 16,  # a length has 5 x 16: needles of 1, 2, 4 and 6 frames from each place of a group on
        "needle_frames": (1, 2, 4, 6),
        "as_files": False,
        "haystack": {
            "file": config.get_ref("haystack"),
            "num_haystacks": 4,
            "num_frames": max(frames),
            "mover_share": mover_share,
            "size": (112, 112),
            "fps": config.run.get_ref("fps"),
            "frames_per_group": 4,
        },
        "sanity": {"question": "In which direction does the shape move?", "kind": "direction"},
    }
    if settings.get("needle", "card") != "card":  # what is asked for is not in the video: here nothing but movers is
        plain["sanity"] = {"question": "Which digit is on the card?", "kind": "digit"}
    judged = {
        "at_least": {metric: dict(rows) for metric, rows in (bars or {}).items()},
        "at_chance": (),
        "max_broken": 0,
        "reported_only": bars is None,
    }
    return ConfigDict({"settings": {**plain, **settings}, "bars": judged})


def cards(at_least: Mapping[int, float]) -> dict[str, dict[str, float]]:
    """Bars of card questions by length; wherever there is one, the needle's group is kept and answers are sound."""
    named = {row(length): bar for length, bar in at_least.items()}
    return {"accuracy": named, "needle kept": dict.fromkeys(named, 0.99), "well formed": dict.fromkeys(named, 0.99)}


def row(num_frames: int) -> str:
    return f"cards, {num_frames:5d} frames"
