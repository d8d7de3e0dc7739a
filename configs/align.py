"""Stage 1, alignment: the projector alone learns to speak to the LLM (paper 4.2: lr 5e-4).

python -m launch.train --config=configs/align.py --workdir=runs/align
Before it: `vxlpro convert QWEN2.5-3B SIGLIP runs/base` and the ReCoT stage, which leaves its DTS in runs/recot.
Batches: the paper's "8" is read as per device (an overall batch of 8 over its GPUs would be far from the 64 of table
3). Here, on one device: 8 samples x 8 micro-batches = 64 overall. On 8 devices: --config.mesh.data=8
--config.stage.micro_batches=1 and --config.data.train.buckets.NAME.batch_size=64 for each bucket, of heldout too.
Data: configs/data/pretrain.yaml says what is expected where; data/heldout.yaml are records of yours that are not in it.
Source: paper 4.1, 4.2 and appendix A (SigLIP, DTS and LLM are frozen).
"""

from ml_collections import ConfigDict

from configs import clips


def get_config() -> ConfigDict:
    config = clips.get_config()
    with config.unlocked():
        config.init_from = "runs/base"
        config.parts = ConfigDict({"dts": "runs/recot", "projector": "fresh", "selector": "fresh"})
        config.stage.trainable = ("projector",)
        # The selector is untrained and frozen here: it drops nothing. The paper's 5 to 30 % begin with fine-tuning.
        config.stage.ranking_weight = 0.0
        config.stage.micro_batches = 8
        config.optimizer.peak_rate = 5e-4
        shapes = {"pictures": (36, 1024, 8), "short": (20, 1024, 8), "long": (60, 1024, 8)}
        config.data.train = clips.feed("configs/data/pretrain.yaml", shapes, keep__low=1.0, keep__high=1.0)
        held = clips.feed("data/heldout.yaml", shapes, keep__low=1.0, keep__high=1.0, workers=2)
        config.data.heldout = held
    return config
