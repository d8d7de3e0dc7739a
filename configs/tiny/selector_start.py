"""Where configs/ablations/selector.py starts from: projector and LLM that never met a score; everything is kept.

python -m launch.train --config=configs/tiny/selector_start.py --workdir=runs/tiny/selector_start
Source: ours (docs/selector.md).
"""

from ml_collections import ConfigDict

from configs.tiny import answers_mid


def get_config() -> ConfigDict:
    config = answers_mid.get_config()
    with config.unlocked():
        config.init_from = "runs/tiny/groups"
        config.seed += 5000
        config.switches = ConfigDict({"selector": {"score_use": "none"}})
        config.stage.trainable = ("projector", "llm")
        config.stage.ranking_weight = 0.0
        config.stage.num_steps = 600
        config.optimizer.warmup_steps = 60
        del config.rows.g16
        for mix in config.rows.values():
            mix.drop = 0.0
            mix.guess_share = 0.0
    return config
