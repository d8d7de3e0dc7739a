"""The embedded model on the generated world, with its bars and controls.

python -m launch.evaluate --config=configs/tiny/eval.py
Any other seed below 1,000,000,000 (those above were trained on): --config.seed=N. One variant: --only=main.
Source: ours (docs/tiny.md).
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

KINDS = ("shape", "colour", "digit", "direction", "when", "first")
CARDS = ("shape", "colour", "digit")


def variant(
    num_videos: int,
    at_least: Mapping[str, Mapping[str, float]] | None = None,
    at_chance: tuple[str, ...] = (),
    reported_only: bool = False,
    **settings,
) -> ConfigDict:
    """A variant that differs from the plain world by `settings`."""
    plain = {
        "world": "standard",
        "lengths_s": (64,),
        "size": (112, 112),
        "num_videos": num_videos,
        "kinds": KINDS,
        "questions_per_kind": 1,  # one of each kind a video: independent draws, as the intervals assume
        "twist": "none",
    }
    bars = {
        "at_least": {metric: dict(rows) for metric, rows in (at_least or {}).items()},
        "at_chance": at_chance,
        "max_broken": 0,
        "reported_only": reported_only,
    }
    return ConfigDict({"settings": {**plain, **settings}, "bars": bars})


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.benchmark = "synthetic_world"
    config.model = ""  # embedded
    config.seed = 20
    config.order = ("main", "no_video", "shuffled", "other_card", "long", "lookalike", "busy", "wide")
    config.run = ConfigDict(
        {
            "fps": 1.0,
            "max_frames": 0,
            "keep_rate": 0.0,
            "max_new_tokens": 128,
            "questions_per_ask": 6,
            "writers": 2,
            "keep_videos": False,
        }
    )
    main_bars = {"shape": 0.97, "colour": 0.97, "digit": 0.97, "direction": 0.93, "when": 0.92, "first": 0.88}
    cards_at = {at: {"accuracy": {kind: at for kind in CARDS}} for at in (0.95, 0.97)}
    config.variants = ConfigDict()
    config.variants.main = variant(500, {"accuracy": main_bars, "evidence_iou": {"all": 0.5}})
    config.variants.no_video = variant(500, at_chance=KINDS, twist="no_video")
    config.variants.shuffled = variant(
        500, at_chance=("direction", "first"), kinds=("direction", "first"), twist="shuffled"
    )
    config.variants.other_card = variant(250, cards_at[0.97], kinds=CARDS, twist="other_card")
    config.variants.long = variant(200, cards_at[0.95], lengths_s=(64, 128, 256, 512, 1024))
    # More than was trained for: what is found is told, and nothing hangs on it.
    config.variants.lookalike = variant(200, reported_only=True, world="lookalike")
    config.variants.busy = variant(200, reported_only=True, world="busy")
    config.variants.wide = variant(100, reported_only=True, size=(360, 640))
    return config.lock()
