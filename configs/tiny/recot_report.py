"""What the reconstructive stage does on generated video: five reports, semantic masking beside random masking.

python -m launch.recot_report --config=configs/tiny/recot_report.py --workdir=runs/tiny/recot_report
Source: paper 3.2 and Table 6; docs/recot.md. An arm is what it changes in `run`; every arm runs with every seed.
"""

from ml_collections import ConfigDict

from configs.tiny import recot


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.run = recot.get_config()
    with config.run.unlocked():
        # So few steps cannot teach both to fill in hidden tokens and to lose nothing of whole clips: three clips of
        # four are whole, and half of the others is hidden.
        config.run.num_steps = 40
        config.run.recot.whole_share = 0.75
        config.run.recot.sgm.video_ratio = 0.5
        config.run.optimizer.warmup_steps = 3
        config.run.loop.log_every = 10
        config.run.loop.eval_every = 40
        config.run.loop.save_every = 40
    config.seeds = (0, 1, 2)
    config.arms = ConfigDict(
        {
            "semantic": {"recot": {"sgm": {"masking": "semantic"}}},
            "random": {"recot": {"sgm": {"masking": "random"}}},
        }
    )
    config.probe_clips = 768
    config.foreground_clips = 256
    config.foreground_seed = 7
    return config.lock()
