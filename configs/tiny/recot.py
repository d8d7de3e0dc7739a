"""DTS, masker and decoder on generated video, over the frozen tower of the embedded model.

python -m launch.train --config=configs/tiny/recot.py --workdir=runs/tiny/recot
Source: paper 3.2. What each choice means, and why it is the default, stands in models/recot.py, models/sgm.py and
train/recot_stage.py; what came of it in docs/recot.md.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import base
from vxlpro_jax.models.recot import ReCoTConfig


def get_config() -> ConfigDict:
    shared = base.get_config()
    config = ConfigDict()
    config.tower = ""  # embedded
    config.start = "components"
    config.seed = shared.seed
    config.mesh = ConfigDict()
    config.num_steps = 3000
    config.batch_size = 16
    config.micro_batches = 1
    config.dtype = "float32"
    config.image_share = 0.25  # paper 3.2: 250 K pictures, 750 K videos
    config.whole_share = 0.5
    config.whole_from = 0.3
    config.recot = ConfigDict(dataclasses.asdict(ReCoTConfig()))
    config.data = ConfigDict(
        {
            "source": "generated",
            "folder": "",
            "num_videos": shared.vision.num_videos,  # the bank of the other stages
            "num_heldout": shared.vision.num_heldout,
            "heldout_every": 10,
            "workers": 2,
            "fps": 1.0,
            "max_frames": 360,  # paper 4.1
            "clip_frames": 4,
            "shard_clips": 512,
            "keep": "features",
            "feature_dtype": "float16",
        }
    )
    config.feed = ConfigDict()
    config.optimizer = ConfigDict(shared.optimizer)
    with config.optimizer.unlocked():
        config.optimizer.peak_rate = 3e-4
        # Small steps around a start that is good already: a short memory of squared gradients makes them noisy, and
        # decay pulls away from it.
        config.optimizer.beta2 = 0.999
        config.optimizer.weight_decay = 0.0
        config.optimizer.rates = {"sgm": 1e-3}  # born near zero, and nothing else depends on the queries' size
        config.optimizer.warmup_steps = 100
    config.loop = ConfigDict(shared.loop)
    return config.lock()
