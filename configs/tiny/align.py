"""Alignment at tiny size: the projector alone, between a tower and an LLM that know their own sides.

python -m launch.train --config=configs/tiny/align.py --workdir=runs/tiny/align
Before it: the stages tower, groups and words (make tiny), and generated data in runs/clips (docs/training.md).
Batches: 16 samples x 2 micro-batches = 32 overall, on one device.
Source: ours (docs/training.md); paper 4.2 for what is trained.
"""

from ml_collections import ConfigDict

from configs import base, clips

SHAPES = {"pictures": (1, 40, 16), "videos": (16, 40, 16)}
ONE_FPS = {"sampling__short_fps": (1.0,), "sampling__max_frames": 64}
TINY = {"prompt": "question", "workers": 2, **ONE_FPS}


def get_config() -> ConfigDict:
    config = base.get_config()
    with config.unlocked():
        config.seed += 2500
        config.init_from = "runs/tiny/words"
        config.parts = ConfigDict({"projector": "fresh"})
        # A group has 4 tokens here: rounded down to multiples of 16, as released, 16 groups could keep 32 or 48 of 64.
        config.switches = ConfigDict({"selector": {"keep_multiple": 1}})
        config.stage.loss = "clips"
        config.stage.selection = "keep_rate"
        config.stage.trainable = ("projector",)
        config.stage.ranking_weight = 0.0
        config.stage.num_steps = 300
        config.stage.micro_batches = 2
        config.optimizer.peak_rate = 2e-3
        config.optimizer.weight_decay = 0.0
        config.loop.best_metric = "token_loss"
        config.data.train = clips.feed("runs/clips/train/train.jsonl", SHAPES, keep__low=1.0, keep__high=1.0, **TINY)
        held = clips.feed("runs/clips/heldout/heldout.jsonl", SHAPES, keep__low=1.0, keep__high=1.0, **TINY)
        config.data.heldout = held
    return config
