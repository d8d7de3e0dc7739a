"""Projector, selector and LLM: whole videos of 8 to 256 groups, with the selector's choice where a row does not fit.

python -m launch.train --config=configs/tiny/answers_long.py --workdir=runs/tiny/answers_long
Source: ours (docs/tiny.md).
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    with config.unlocked():
        config.init_from = "runs/tiny/answers_mid"
        config.seed += 2000
        config.stage.loss = "answers"
        config.stage.trainable = ("projector", "selector", "llm")
        config.stage.stamp_weight = 0.3
        config.stage.num_steps = 700
        config.optimizer.peak_rate = 1.2e-3
        config.optimizer.warmup_steps = 40
        config.rows.g4 = {
            "num_groups": 4,
            "batch_size": 96,
            "length": 256,
            "weight": 0.05,
            "drop": 0.3,
            "when_share": 0.36,
        }
        config.rows.g8 = {
            "num_groups": 8,
            "batch_size": 64,
            "length": 256,
            "weight": 0.2,
            "drop": 0.3,
            "when_share": 0.36,
        }
        config.rows.g16 = {
            "num_groups": 16,
            "batch_size": 48,
            "length": 256,
            "weight": 0.5,
            "drop": 0.3,
            "when_share": 0.36,
        }
        config.rows.g64 = {
            "num_groups": 64,
            "batch_size": 24,
            "length": 256,
            "weight": 0.15,
            "drop": 0.3,
            "when_share": 0.36,
        }
        config.rows.g256 = {
            "num_groups": 256,
            "batch_size": 12,
            "length": 256,
            "weight": 0.1,
            "drop": 0.5,
            "when_share": 0.36,
        }
    return config
