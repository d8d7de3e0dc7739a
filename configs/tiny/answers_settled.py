"""Projector, selector and LLM: whole videos again, with many rows that cannot be answered; the last stage.

python -m launch.train --config=configs/tiny/answers_settled.py --workdir=runs/tiny/answers_settled
Source: ours (docs/tiny.md).
"""

from ml_collections import ConfigDict

from configs.tiny import answers_long


def get_config() -> ConfigDict:
    config = answers_long.get_config()
    with config.unlocked():
        config.init_from = "runs/tiny/answers_long"
        config.seed += 500
        config.stage.num_steps = 200
        config.optimizer.peak_rate = 5e-4
        config.optimizer.warmup_steps = 20
        for name, weight in (("g8", 0.2), ("g16", 0.5), ("g64", 0.15), ("g256", 0.15)):
            config.rows[name].weight = weight
            config.rows[name].guess_share = 0.25
            config.rows[name].settled_guess = True
    return config
