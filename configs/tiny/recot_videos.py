"""DTS on your own videos from nothing, over the embedded model's frozen tower (docs/train_dts.md).

python -m launch.train --config=configs/tiny/recot_videos.py --config.data.folder=VIDEOS --workdir=runs/my_dts
Source: paper 3.2. With --config.tower=FOLDER the tower of a released model is used in its place.
"""

from ml_collections import ConfigDict

from configs.tiny import recot


def get_config() -> ConfigDict:
    config = recot.get_config()
    with config.unlocked():
        config.data.source = "folder"
    return config.lock()
