"""Clips of the reconstructive stage: kept in shards, or fed from a mixture while the stage trains.

Source: paper 3.2 (pictures and videos jointly); docs/train_dts.md, docs/data.md.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from vxlpro_jax.data.clip_shards import ClipShards
from vxlpro_jax.data.pipeline import DataFeed
from vxlpro_jax.eval.reconstruction import PCA_ROWS
from vxlpro_jax.train.recot_stage import (
    ReCoTBatch,
    ReCoTRunConfig,
    ReCoTStage,
    clip_features,
    masking_draw,
    recot_batches,
)
from vxlpro_jax.train.state import Params

HELDOUT = "heldout "

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
        """step -> its batch."""
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
    """Clips of a mixture, decoded by workers while the stage trains; a batch follows from seed and step alone."""

    config: ReCoTRunConfig
    stage: ReCoTStage
    tower: Params
    feed: DataFeed
    heldout_feed: DataFeed

    def batches(self) -> Callable[[int], ReCoTBatch]:
        """step -> its batch; in place of a clip that cannot be read stands another one of the batch."""
        is_video = self.feed.plan.sizes.is_video

        def make(step: int) -> ReCoTBatch:
            batch = self.feed(step)
            rows = np.where(batch.valid, np.arange(len(batch.valid)), np.argmax(batch.valid))
            ids = batch.sample_ids[rows]
            return ReCoTBatch(batch.frames[rows], ~is_video[ids], *masking_draw(self.config, step, len(rows)), ids)

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
        return np.concatenate(list(self._videos(self.feed, sample_size(self.stage))))

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
