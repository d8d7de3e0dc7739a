"""DTS, masker and decoder at full size, over the frozen tower of a released model.

python -m launch.train --config=configs/recot.py --config.tower=MODEL --config.data.folder=VIDEOS --workdir=runs/recot
Source: paper 3.2 and table 2 (250 K pictures, 750 K videos, 48 A100 hours; it names neither rate nor batch). Frames are
kept, not features: a clip's features of 24 x 24 x 1152 numbers a frame would take three times the room of its pixels.
"""

from ml_collections import ConfigDict

from configs.tiny import recot


def get_config() -> ConfigDict:
    config = recot.get_config()
    with config.unlocked():
        config.data.source = "folder"
        config.data.keep = "frames"
        config.num_steps = 15_625  # a million samples once, in batches of 64
        config.batch_size = 64
        # The tiny stage's rate over the ratio of widths: an output changes with all the inputs it adds up.
        config.optimizer.peak_rate = 3e-5
        config.optimizer.warmup_steps = 470  # 3 %, as the paper warms up elsewhere
        config.loop.eval_every = 500
        config.loop.save_every = 500
    return config.lock()
