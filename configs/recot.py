"""DTS, masker and decoder at full size, over the frozen tower of a released model.

python -m launch.train --config=configs/recot.py --workdir=runs/recot
Before it: `vxlpro convert QWEN2.5-3B SIGLIP runs/base`, or config.tower with a released model; and the paper's data
(docs/data.md), or --config.data.source=folder --config.data.folder=VIDEOS.
Source: paper 3.2 and table 2 (250 K pictures, 750 K videos, 48 A100 hours; it names neither rate nor batch). Clips are
read anew and pass the tower in every step: kept features of 24 x 24 x 1152 numbers a frame would take three times the
room of its pixels.
"""

from ml_collections import ConfigDict

from configs import clips
from configs.tiny import recot


def get_config() -> ConfigDict:
    config = recot.get_config()
    with config.unlocked():
        config.batch_size = 64
        config.dtype = "bfloat16"
        config.tower = "runs/base"
        config.data.source = "mixture"
        config.data.keep = "frames"
        for name, mixture in (("train", "configs/data/recot.yaml"), ("heldout", "data/heldout.yaml")):
            shared = {"prompt": "none", "sampling__clip_frames": config.data.clip_frames}
            config.feed[name] = clips.feed(mixture, {"clips": (1, 0, config.batch_size)}, **shared)
        config.num_steps = 15_625  # as many clips as the paper has samples, in batches of 64
        # The tiny stage's rate over the ratio of widths: an output changes with all the inputs it adds up.
        config.optimizer.peak_rate = 3e-5
        config.optimizer.warmup_steps = 470  # 3 %, as the paper warms up elsewhere
        config.loop.eval_every = 500
        config.loop.save_every = 500
    return config.lock()
