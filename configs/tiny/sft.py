"""Fine-tuning at tiny size: every parameter, on pictures and whole videos from their pixels.

python -m launch.train --config=configs/tiny/sft.py --workdir=runs/tiny/sft
Before it: configs/tiny/align.py, whose data it shares.
Batches: 16 samples x 2 micro-batches = 32 overall, on one device.
Source: ours (docs/training.md); paper 4.2 for what is trained, 3.3 for what the selector drops.
"""

from ml_collections import ConfigDict

from configs import clips
from configs.tiny import align


def get_config() -> ConfigDict:
    config = align.get_config()
    with config.unlocked():
        config.seed += 500
        config.init_from = "runs/tiny/align"
        config.parts = ConfigDict()
        config.stage.trainable = ("vision_tower", "dts", "projector", "selector", "llm")
        config.stage.ranking_weight = 0.5
        config.export = True
        # Pixels through tower and DTS at a rate that the answers stages take would undo what the groups stage taught.
        config.optimizer.peak_rate = 5e-4
        config.optimizer.rates = ConfigDict({"vision_tower": 5e-5, "dts": 5e-5})
        for name in ("train", "heldout"):
            path = f"runs/clips/{name}/{name}.jsonl"
            config.data[name] = clips.feed(path, align.SHAPES, **align.TINY)
    return config
