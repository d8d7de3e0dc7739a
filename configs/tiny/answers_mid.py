"""Projector, selector and LLM: two to sixteen groups; times are bound to their groups here.

python -m launch.train --config=configs/tiny/answers_mid.py --workdir=runs/tiny/answers_mid
Source: ours (docs/tiny.md).
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    with config.unlocked():
        config.init_from = "runs/tiny/answers_short"
        config.seed += 1500
        config.stage.loss = "answers"
        config.stage.trainable = ("projector", "selector", "llm")
        config.stage.stamp_weight = 0.5
        config.stage.num_steps = 400
        config.optimizer.peak_rate = 2e-3
        config.optimizer.final_share = 0.3
        config.optimizer.warmup_steps = 40
        config.rows.g2 = {
            "num_groups": 2,
            "batch_size": 128,
            "length": 256,
            "weight": 0.15,
            "drop": 0.0,
            "when_share": 0.36,
            "guess_share": 0.07,
            "settled_guess": False,
        }
        config.rows.g4 = {
            "num_groups": 4,
            "batch_size": 96,
            "length": 256,
            "weight": 0.35,
            "drop": 0.2,
            "when_share": 0.36,
            "guess_share": 0.07,
            "settled_guess": False,
        }
        config.rows.g8 = {
            "num_groups": 8,
            "batch_size": 64,
            "length": 256,
            "weight": 0.3,
            "drop": 0.3,
            "when_share": 0.36,
            "guess_share": 0.07,
            "settled_guess": False,
        }
        config.rows.g16 = {
            "num_groups": 16,
            "batch_size": 64,
            "length": 90,
            "weight": 0.2,
            "drop": 0.7,
            "when_share": 0.36,
            "guess_share": 0.07,
            "settled_guess": False,
        }
    return config
