"""Tower and DTS together, taught by auxiliary heads on frames and on groups of them; the DTS comes from ReCoT.

python -m launch.train --config=configs/tiny/groups.py --workdir=runs/tiny/groups
Source: ours (docs/tiny.md).
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    with config.unlocked():
        config.init_from = "runs/tiny/tower"
        config.parts = ConfigDict({"dts": "runs/tiny/recot"})
        config.seed += 500
        config.stage.loss = "groups"
        config.stage.trainable = ("vision_tower", "dts", "heads")
        config.stage.num_steps = 1600
        config.optimizer.peak_rate = 1e-3
    return config
