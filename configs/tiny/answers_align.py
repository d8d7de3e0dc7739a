"""The projector alone, between the DTS and an LLM that knows the questions in words: alignment.

python -m launch.train --config=configs/tiny/answers_align.py --workdir=runs/tiny/answers_align
Source: ours (docs/tiny.md); paper 4.2 for what is trained.
"""

from ml_collections import ConfigDict

from configs.tiny import answers_short


def get_config() -> ConfigDict:
    config = answers_short.get_config()
    with config.unlocked():
        config.init_from = "runs/tiny/words"
        config.parts = ConfigDict({"projector": "fresh"})
        config.seed += 200
        config.stage.trainable = ("projector",)
        config.stage.ranking_weight = 0.0
        config.stage.num_steps = 150
    return config
