"""A small generated set of videos and pictures in LLaVA's format, and feeds over it."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from vxlpro_jax.data.batch_plan import BucketConfig
from vxlpro_jax.data.clip_batches import KeepConfig
from vxlpro_jax.data.frame_sampling import SamplingConfig
from vxlpro_jax.data.pipeline import DataConfig
from vxlpro_jax.data.records import write_records
from vxlpro_jax.data.samples import ModelShape
from vxlpro_jax.data.synthetic import sample_video
from vxlpro_jax.data.synthetic_files import write_video
from vxlpro_jax.data.synthetic_records import video_records, write_pictures
from vxlpro_jax.types import StampConfig

SEED, LENGTHS_S = 11, (32, 32, 36, 44, 60)
SHAPE = ModelShape(  # the embedded model's; written out because workers that import models start slowly
    image_size=56,
    frames_per_group=4,
    tokens_per_group=4,
    stamps=StampConfig(text="t{:04.0f}", num_tokens=3),
    max_context_len=280,
    short_group="pad_last",
    label_mask="answers",
    picture_views="anyres",
    selector_query="question",
    selection="budget",
    keep_multiple=16,
)
SAMPLING = SamplingConfig(
    rule="variable", short_s=40.0, short_fps=(0.25, 0.5), long_fps=0.25, max_frames=16, clip_frames=0
)


def tokenize(text: str) -> list[int]:
    """A number for each word, digit or sign; needs no tokenizer file and means the same in every process."""
    pieces = re.findall(r"<\|\w+\|>|[A-Za-z]+|\d|\S|\s", text)
    return [int(hashlib.md5(piece.encode()).hexdigest(), 16) % 500 for piece in pieces]


def write_set(folder: Path) -> Path:
    """Five videos of 32 to 60 s, pictures of their cards, and train.jsonl with their records; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for index, length_s in enumerate(LENGTHS_S):
        video = sample_video(SEED, index, length_s)
        write_video(video, folder / f"{index}.mp4", (56, 56), fps=2.0)
        records += video_records(video, f"{index}.mp4")
        records += write_pictures(video, folder, str(index), (56, 56))
    write_records(folder / "train.jsonl", records)
    return folder / "train.jsonl"


def data_config(mixture: Path, **changes) -> DataConfig:
    config = DataConfig(
        mixture=str(mixture),
        root="",
        facts="",
        prompt="question",
        sampling=SAMPLING,
        buckets={"short": BucketConfig(2, 64, 6), "long": BucketConfig(4, 64, 4)},
        max_media=1,
        keep=KeepConfig(0.7, 0.95, "batch"),
        workers=0,
        buffered_batches=1,
        max_broken_share=0.0,
    )
    return replace(config, **changes)


def digest(batch) -> str:
    """Of every byte, type and shape of a batch."""
    found = hashlib.sha256()

    def add(value) -> None:
        if isinstance(value, tuple):
            for item in value:
                add(item)
        else:
            array = np.asarray(value)
            found.update(f"{array.dtype}{array.shape}".encode() + (array.tobytes() if value is not None else b""))

    add(batch)
    return found.hexdigest()
