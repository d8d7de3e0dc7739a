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
        config.stage.stamp_weight = 0.2
        config.stage.num_steps = 950
        # A haystack of 16,384 frames has 450 textures, some of which look like cards; the bank has 1,800.
        config.vision.num_textures = 600
        config.optimizer.peak_rate = 1.5e-3
        config.optimizer.warmup_steps = 40
        # 136 rows: what a question leaves for a long video in a context of 256 with 128 kept for the answer.
        config.rows.g8 = {
            "num_groups": 8,
            "batch_size": 64,
            "length": 256,
            "weight": 0.15,
            "drop": 0.3,
            "when_share": 0.33,
            "guess_share": 0.07,
            "settled_guess": False,
        }
        config.rows.g16 = {
            "num_groups": 16,
            "batch_size": 48,
            "length": 256,
            "weight": 0.4,
            "drop": 0.5,
            "when_share": 0.33,
            "guess_share": 0.07,
            "settled_guess": False,
        }
        config.rows.g64 = {
            "num_groups": 64,
            "batch_size": 40,
            "length": 136,
            "weight": 0.2,
            "drop": 0.5,
            "when_share": 0.33,
            "guess_share": 0.07,
            "settled_guess": False,
        }
        config.rows.g256 = {
            "num_groups": 256,
            "batch_size": 20,
            "length": 136,
            "weight": 0.25,
            "drop": 0.5,
            "when_share": 0.25,
            "guess_share": 0.07,
            "settled_guess": False,
        }
    return config
