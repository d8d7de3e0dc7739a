"""What the reconstructive stage does on generated video: five reports, for two maskings and three compressions.

python -m launch.recot_report --config=configs/tiny/recot_report.py --workdir=runs/ablations/recot
Source: paper 3.2, Tables 4 and 6; docs/recot.md. An arm is what it changes in `run`; every arm runs with every seed.
"""

from ml_collections import ConfigDict

from configs.tiny import recot


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.run = recot.get_config()
    with config.run.unlocked():
        config.run.data.clip_frames = 8  # a group of the strongest compression, two of the paper's
        config.run.data.num_videos, config.run.data.num_heldout = 256, 48
        config.run.batch_size = 8
        config.run.loop.eval_every = 1000
        config.run.loop.save_every = 1000
    config.seeds = (0, 1, 2)
    config.arms = ConfigDict(
        {
            "semantic": {"recot": {"sgm": {"masking": "semantic"}}},
            "random": {"recot": {"sgm": {"masking": "random"}}},
            "x2": {"recot": {"compression": "x2"}},
            "x8": {"recot": {"compression": "x8"}},
        }
    )
    config.probe_clips = 768
    config.foreground_clips = 256
    config.foreground_seed = 7
    return config.lock()
