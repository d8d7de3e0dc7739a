"""Projector, selector and LLM: every kind of question over one to four groups; times are learnt here.

python -m launch.train --config=configs/tiny/answers_short.py --workdir=runs/tiny/answers_short
Source: ours (docs/tiny.md).
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    with config.unlocked():
        config.init_from = "runs/tiny/answers_align"
        config.seed += 1000
        config.stage.loss = "answers"
        config.stage.trainable = ("projector", "selector", "llm")
        config.stage.stamp_weight = 0.5
        config.stage.num_steps = 250
        config.optimizer.peak_rate = 2e-3
        config.optimizer.warmup_steps = 60
        config.optimizer.final_share = 0.3
        config.rows.g1 = {
            "num_groups": 1,
            "batch_size": 160,
            "length": 256,
            "weight": 0.4,
            "drop": 0.0,
            "when_share": 0.36,
            "guess_share": 0.07,
            "settled_guess": False,
        }
        config.rows.g2 = {
            "num_groups": 2,
            "batch_size": 128,
            "length": 256,
            "weight": 0.3,
            "drop": 0.0,
            "when_share": 0.36,
            "guess_share": 0.07,
            "settled_guess": False,
        }
        config.rows.g4 = {
            "num_groups": 4,
            "batch_size": 96,
            "length": 256,
            "weight": 0.3,
            "drop": 0.0,
            "when_share": 0.36,
            "guess_share": 0.07,
            "settled_guess": False,
        }
    return config
