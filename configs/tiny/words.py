"""LLM and selector: the same questions, over groups that are described in words; the LLM's pretraining.

python -m launch.train --config=configs/tiny/words.py --workdir=runs/tiny/words
Source: ours (docs/tiny.md).
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    with config.unlocked():
        config.init_from = "runs/tiny/groups"
        config.seed += 800
        config.stage.loss = "words"
        config.stage.trainable = ("selector", "llm")
        config.stage.stamp_weight = 0.5
        config.stage.num_steps = 400
        config.optimizer.peak_rate = 2e-3
        config.optimizer.warmup_steps = 60
        config.optimizer.final_share = 0.3
        for num_groups, batch_size, weight, drop in (
            (1, 160, 0.2, 0.0),
            (2, 128, 0.3, 0.0),
            (4, 96, 0.3, 0.1),
            (8, 64, 0.2, 0.3),
        ):
            config.rows[f"g{num_groups}"] = {
                "num_groups": num_groups,
                "batch_size": batch_size,
                "length": 256,
                "weight": weight,
                "drop": drop,
                "when_share": 0.36,
                "guess_share": 0.0,
                "settled_guess": False,
            }
    return config
