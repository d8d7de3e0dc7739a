"""Stage 2, fine-tuning: every parameter (paper 4.2 and table 3: lr 1e-5, overall batch 64, one epoch).

python -m launch.train --config=configs/sft.py --workdir=runs/sft
Batches: the paper says 1 in 4.2 and overall 64 in table 3: 1 is read as per device. Here, on one device: 1 sample x 64
micro-batches = 64 overall. On 8 devices: --config.mesh.data=8 --config.stage.micro_batches=8 and
--config.data.train.buckets.NAME.batch_size=8 for each bucket, of heldout too.
Data: configs/data/sft.yaml says what is expected where; data/heldout.yaml are records of yours that are not in it.
Source: paper 4.1, 4.2, table 3.
"""

from ml_collections import ConfigDict

from configs import clips


def get_config() -> ConfigDict:
    config = clips.get_config()
    with config.unlocked():
        config.init_from = "runs/align"
        config.stage.trainable = ("vision_tower", "dts", "projector", "selector", "llm")
        config.stage.micro_batches = 64
        config.optimizer.peak_rate = 1e-5
        shapes = {"pictures": (36, 2048, 1), "short": (20, 2048, 1), "long": (60, 2048, 1)}
        config.data.train = clips.feed("configs/data/sft.yaml", shapes)
        config.data.heldout = clips.feed("data/heldout.yaml", shapes, workers=2)
    return config
