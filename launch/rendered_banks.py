"""Banks of rendered groups on disk, shared by the runs beside them; a name says all that a bank depends on.

Source: ours (docs/tiny.md).
"""

from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from vxlpro_jax.data.synthetic_bank import DrawVideo, GroupBank, build_bank, join_banks, load_bank, save_bank


class BankKey(NamedTuple):
    """kind: "bank", or what is drawn otherwise. frames_per_group: of the bank's groups."""

    kind: str
    seed: int
    num_videos: int
    image_size: int
    frames_per_group: int

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.num_videos}x{self.frames_per_group}_{self.image_size}px_{self.seed}"


def rendered_bank(key: BankKey, folder: Path, workers: int, draw: DrawVideo | None = None) -> GroupBank:
    """The bank, rendered into `folder` by so many processes when it is not there yet."""
    path = folder / f"{key.name}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        videos = build_bank(key.seed, key.num_videos, key.image_size, key.frames_per_group, workers, draw)
        save_bank(join_banks(list(tqdm(videos, total=key.num_videos, desc=key.name, unit="video"))), path)
    return load_bank(path)
