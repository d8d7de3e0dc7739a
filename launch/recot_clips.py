"""Clips of the reconstructive stage: kept in shards, or fed from a mixture while the stage trains.

Source: paper 3.2 (pictures and videos jointly); docs/train_dts.md, docs/data.md.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from launch.data_settings import shape_of
from launch.frame_encoder import tower_fingerprint
from launch.rendered_banks import BankKey, rendered_bank
from launch.whole_file import written_whole
from vxlpro_jax.data.clip_shards import ClipShards, ClipSource, write_shards
from vxlpro_jax.data.pipeline import DataFeed, open_feed
from vxlpro_jax.data.synthetic_bank import GroupBank
from vxlpro_jax.data.video_clips import folder_sources
from vxlpro_jax.eval.reconstruction import PCA_ROWS
from vxlpro_jax.models.presets import VideoXLProConfig
from vxlpro_jax.train.recot_stage import (
    ReCoTBatch,
    ReCoTRunConfig,
    ReCoTStage,
    clip_features,
    masking_draw,
    recot_batches,
    tower_features,
)
from vxlpro_jax.train.state import Params

HELDOUT = "heldout "
ENCODE_FRAMES = 256  # that the tower reads at once
PICTURE_EVERY = 4  # of generated clips, one gives a frame that is a picture of its own

_features = jax.jit(clip_features, static_argnums=0)


@dataclass
class ShardedClips:
    """Clips of shards: which are for training, and which are held out."""

    config: ReCoTRunConfig
    stage: ReCoTStage
    tower: Params
    shards: ClipShards

    @cached_property
    def is_heldout(self) -> np.ndarray:
        names, every = self.shards.sources, self.config.data.heldout_every
        if self.config.data.source == "generated":
            held = [name.startswith(HELDOUT) for name in names]
        else:
            held = [number % every == every - 1 for number in range(len(names))]
        return np.array(held)[self.shards.source]

    def batches(self) -> Callable[[int], ReCoTBatch]:
        """number -> that micro-batch."""
        return recot_batches(self.shards, self.train_ids(), self.config)

    def told(self) -> dict[str, Any]:
        """What the summary says of them."""
        return {
            "train_clips": len(self.train_ids()),
            "sources": len(self.shards.sources),
            "broken": self.shards.broken,
        }

    def train_ids(self) -> np.ndarray:
        return np.flatnonzero(~self.is_heldout)

    def heldout_ids(self, most: int) -> np.ndarray:
        """At most so many video clips, spread evenly. Raises ValueError where there is none."""
        chosen = np.flatnonzero(self.is_heldout & ~self.shards.is_image)
        if not len(chosen):
            raise ValueError(
                f"{len(self.shards.sources)} sources give no held-out video clip: give more videos, or hold out more "
                f"often than every {self.config.data.heldout_every}th (config.data.heldout_every)"
            )
        return chosen[np.unique(np.linspace(0, len(chosen) - 1, most).astype(int))]

    def features(self, chosen: np.ndarray) -> Iterator[np.ndarray]:
        """float32 features of the chosen clips, batch by batch of at most batch_size."""
        for part in np.array_split(chosen, -(-len(chosen) // self.config.batch_size)):
            yield np.asarray(_features(self.stage, {"vision_tower": self.tower}, self.shards.take(part)))

    def heldout(self, most: int) -> list[np.ndarray]:
        """Features of at most so many held-out video clips, in parts."""
        return list(self.features(self.heldout_ids(most)))

    def sample(self) -> np.ndarray:
        """Features of as many training clips as fitting linear maps takes. Raises ValueError where there is none."""
        ids = self.train_ids()
        ids = ids[~self.shards.is_image[ids]]
        if not len(ids):
            raise ValueError(f"{self.shards.folder}: no video clip to train on, pictures alone teach no compression")
        ids = ids[np.unique(np.linspace(0, len(ids) - 1, sample_size(self.stage)).astype(int))]
        return np.concatenate(list(self.features(ids)))


@dataclass
class FedClips:
    """Clips of a mixture, decoded by workers while the stage trains; a batch follows from seed and number alone.

    kept_sample: file of the sample's features. A run that goes on does not read the first steps again, for the feed
    would forget what was broken in all the steps after them.
    """

    config: ReCoTRunConfig
    stage: ReCoTStage
    tower: Params
    feed: DataFeed
    heldout_feed: DataFeed
    kept_sample: Path

    def batches(self) -> Callable[[int], ReCoTBatch]:
        """number -> that micro-batch; in place of a clip that cannot be read stands another one of the batch."""
        is_video = self.feed.plan.sizes.is_video

        def make(number: int) -> ReCoTBatch:
            batch = self.feed(number)
            rows = np.where(batch.valid, np.arange(len(batch.valid)), np.argmax(batch.valid))
            ids = batch.sample_ids[rows]
            return ReCoTBatch(batch.frames[rows], ~is_video[ids], *masking_draw(self.config, number, len(rows)), ids)

        return make

    def told(self) -> dict[str, Any]:
        """What the summary says of them; broken samples are listed in data/*/broken.jsonl."""
        usable = self.feed.plan.sizes.is_usable
        return {"train_clips": int(usable.sum()), "sources": len(usable), "broken": self.feed.num_broken}

    def heldout(self, most: int) -> list[np.ndarray]:
        """Features of at most so many held-out video clips, in parts."""
        found = list(self._videos(self.heldout_feed, most))
        self.heldout_feed.close()
        return found

    def sample(self) -> np.ndarray:
        """Features of as many training clips as fitting linear maps takes."""
        if not self.kept_sample.exists():
            with written_whole(self.kept_sample) as part:
                np.save(part, np.concatenate(list(self._videos(self.feed, sample_size(self.stage)))))
        return np.load(self.kept_sample)

    def _videos(self, feed: DataFeed, most: int) -> Iterator[np.ndarray]:
        """Raises ValueError where an epoch has no readable video."""
        count = 0
        for step in range(feed.num_steps(1)):
            batch = feed(step)
            chosen = np.flatnonzero(batch.valid & feed.plan.sizes.is_video[batch.sample_ids])[: most - count]
            if len(chosen):
                yield np.asarray(_features(self.stage, {"vision_tower": self.tower}, batch.frames[chosen]))
            count += len(chosen)
            if count >= most:
                return
        if not count:
            raise ValueError("the mixture has no readable video: pictures alone teach no compression (launch.validate)")


def sample_size(stage: ReCoTStage) -> int:
    """Clips that give the tokens which linear maps are fitted to."""
    return max(1, PCA_ROWS // stage.model.dts_config.grid_size**2)


@contextlib.contextmanager
def open_clips(
    config: ReCoTRunConfig, sizes: VideoXLProConfig, stage: ReCoTStage, tower: Params, workdir: Path
) -> Iterator[ShardedClips | FedClips]:
    """The clips that a run's configuration names; sizes: of the tower's model."""
    if config.data.source != "mixture":
        yield prepare_clips(config, stage, tower, workdir / "clips", workdir.parent)
        return
    shape = shape_of(dataclasses.replace(sizes, dts=config.recot.dts_of(sizes.dts)))
    with contextlib.ExitStack() as feeds:
        train, heldout = (
            feeds.enter_context(open_feed(config.feed[name], shape, None, config.seed, workdir / "data" / name))
            for name in ("train", "heldout")
        )
        yield FedClips(config, stage, tower, train, heldout, workdir / "data" / "sample.npy")


def prepare_clips(config: ReCoTRunConfig, stage: ReCoTStage, tower: Params, folder: Path, banks: Path) -> ShardedClips:
    """Render (into `banks`) or decode what is not there yet, and encode it into `folder` where features are kept."""
    data, size = config.data, stage.vision.image_size
    if data.source == "generated":
        sources = [
            source
            for heldout in (False, True)
            for source in bank_sources(generated_bank(config, size, banks, heldout), data.shard_clips, heldout)
        ]
        what = {"seed": config.seed, "num_videos": data.num_videos, "num_heldout": data.num_heldout}
    else:
        sources = folder_sources(data.folder, data.clip_frames, data.fps, data.max_frames, size)
        what = {"fps": data.fps, "max_frames": data.max_frames}
    made_by = {"keep": data.keep, "clip_frames": data.clip_frames, "image_size": size, **what}
    if data.keep == "features":
        made_by |= {"tower": tower_fingerprint(stage.vision, tower), "type": data.feature_dtype}
        made_by |= {"grid": stage.model.dts_config.grid_size}
    encode = clip_encoder(stage, tower) if data.keep == "features" else lambda frames: frames
    for _ in tqdm(write_shards(folder, sources, encode, made_by), total=len(sources), desc="clips", unit="source"):
        pass
    return ShardedClips(config, stage, tower, ClipShards(folder, data.clip_frames))


def clip_encoder(stage: ReCoTStage, tower: Params) -> Callable[[np.ndarray], np.ndarray]:
    """frames uint8 [n, t, S, S, 3] -> features [n, t, g, g, E], always the same number of frames at once."""
    encode = jax.jit(lambda tower, frames: tower_features(stage, {"vision_tower": tower}, frames))

    def run(clips: np.ndarray) -> np.ndarray:
        frames = clips.reshape(1, -1, *clips.shape[2:])
        parts = []
        for start in range(0, frames.shape[1], ENCODE_FRAMES):
            part = frames[:, start : start + ENCODE_FRAMES]
            fill = np.repeat(part[:, -1:], ENCODE_FRAMES - part.shape[1], axis=1)
            parts.append(np.asarray(encode(tower, np.concatenate([part, fill], 1)))[0, : part.shape[1]])
        features = np.concatenate(parts)
        return features.reshape(*clips.shape[:2], *features.shape[1:])

    return run


def generated_bank(config: ReCoTRunConfig, image_size: int, folder: Path, heldout: bool) -> GroupBank:
    """The bank to train on, or the held-out one."""
    data = config.data
    num_videos = data.num_heldout if heldout else data.num_videos
    key = BankKey("bank", config.seed + heldout, num_videos, image_size, data.clip_frames)
    return rendered_bank(key, folder, data.workers)


def bank_sources(bank: GroupBank, shard_clips: int, heldout: bool) -> list[ClipSource]:
    """Clips of the bank, so many per file, and single frames of some of them as pictures."""
    prefix = HELDOUT if heldout else ""
    starts = range(0, len(bank), shard_clips)

    def clips(start: int) -> np.ndarray:
        return bank.frames[start : start + shard_clips]

    def pictures(start: int) -> np.ndarray:
        chosen = clips(start)[::PICTURE_EVERY]
        return chosen[np.arange(len(chosen)), np.arange(len(chosen)) % chosen.shape[1]][:, None]

    videos = [ClipSource(f"{prefix}clips {start}", False, partial(clips, start)) for start in starts]
    if heldout:
        return videos
    return videos + [ClipSource(f"pictures {start}", True, partial(pictures, start)) for start in starts]
