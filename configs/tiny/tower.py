"""Vision tower, taught by auxiliary heads on single frames.

python -m launch.train --config=configs/tiny/tower.py --workdir=runs/tiny/tower
Source: ours (docs/tiny.md).
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    with config.unlocked():
        config.stage.trainable = ("vision_tower", "heads")
        config.stage.num_steps = 2600
        config.optimizer.final_share = 0.1
        config.optimizer.peak_rate = 1.2e-3
        config.optimizer.warmup_steps = 100
    return config
