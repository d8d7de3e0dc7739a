"""Tables 4 to 6 at tiny size: the same questions through DTSs that join 1, 2, 4 or 8 frames, and differently taught.

python -m launch.recot_report --config=configs/tiny/recot_report.py --workdir=runs/ablations/recot
python -m launch.ablate --config=configs/ablations/compression.py --workdir=runs/ablations/compression
Source: paper 4.8, Tables 4 and 5 (compression), 6 (masking); docs/ablations.md. The first command makes the DTSs; tower
and DTS stay as they are here, while a new projector, selector and LLM learn to answer from their codes.
"""

from ml_collections import ConfigDict

from configs import base
from configs.tiny import recot_report

DTS = "runs/ablations/recot/{arm}_{{seed}}"
CLIP = 8  # frames of a clip; a video is one or two clips
ROWS_PER_GROUP, TEXT = 7, 40  # a stamp of 3 tokens and 4 visual tokens
VIDEOS = {"one": (1, 64), "two": (2, 48)}  # clips in a video, rows of a batch


def arm(frames_per_group: int, dts: str) -> ConfigDict:
    """A DTS, and rows with place for everything it gives."""
    rows = {
        name: {"length": clips * CLIP // frames_per_group * ROWS_PER_GROUP + TEXT}
        for name, (clips, _) in VIDEOS.items()
    }
    return ConfigDict(
        {"switches": {"dts": {"frames_per_group": frames_per_group}}, "rows": rows, "parts": {"dts": dts}}
    )


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.stage = base.get_config()
    with config.stage.unlocked():
        config.stage.seed += 8000
        config.stage.init_from = "runs/tiny/words"
        config.stage.parts = ConfigDict({"projector": "fresh", "dts": ""})
        config.stage.switches = ConfigDict({"dts": {"frames_per_group": 4}})
        config.stage.stage.loss = "answers"
        config.stage.stage.trainable = ("projector", "selector", "llm")
        config.stage.stage.num_steps = 300
        config.stage.optimizer.peak_rate = 2e-3
        config.stage.vision.num_videos = 600
        config.stage.vision.num_shuffled = 1  # no row here is one to guess at
        config.stage.vision.bank_frames = CLIP
        mix = {"length": 0, "weight": 1.0, "drop": 0.0, "when_share": 0.2, "guess_share": 0.0, "settled_guess": False}
        config.stage.rows = ConfigDict(
            {name: {**mix, "num_groups": clips, "batch_size": size} for name, (clips, size) in VIDEOS.items()}
        )
    config.arms = ConfigDict(
        {
            "none": arm(1, "fresh"),  # hands the tower's tokens on
            "x2": arm(2, DTS.format(arm="x2")),
            "x4": arm(4, DTS.format(arm="semantic")),
            "x8": arm(8, DTS.format(arm="x8")),
            "x4_random_masks": arm(4, DTS.format(arm="random")),
            "x4_untaught": arm(4, "fresh"),
            "x4_labels": arm(4, "runs/tiny/groups"),  # taught by labels of what the frames show, with the tower
        }
    )
    config.seeds = tuple(recot_report.get_config().seeds)
    config.marks = (
        "one_all",
        "two_all",
        *(f"two_{kind}" for kind in ("shape", "colour", "digit", "direction", "first")),
    )
    config.claims = ConfigDict(
        {
            "recot_helps": {"better": "x4", "worse": "x4_untaught", "mark": "two_all", "by": 2.0},
            "x4_over_x8": {"better": "x4", "worse": "x8", "mark": "two_all", "by": 2.0},
        }
    )
    return config.lock()
