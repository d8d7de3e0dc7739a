"""The stage that teaches the DTS to keep what a frozen tower saw: its loss, its batches, its settings.

Source: paper 3.2; RECOT's open choices are fields of ReCoTConfig and SgmConfig.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vxlpro_jax.data.clip_shards import ClipShards
from vxlpro_jax.data.image_transforms import to_pixels
from vxlpro_jax.data.pipeline import DataConfig
from vxlpro_jax.models.part_configs import DtsConfig, SiglipConfig
from vxlpro_jax.models.recot import ReCoTConfig, ReCoTModel, ReCoTOutput
from vxlpro_jax.models.sgm import num_masked
from vxlpro_jax.models.siglip import SiglipTower, resize_grid
from vxlpro_jax.train.loop import LoopConfig
from vxlpro_jax.train.losses import LossTerms, Tally, Term
from vxlpro_jax.train.optimizers import OptimizerConfig
from vxlpro_jax.train.state import Params

Array = Any
TRAINABLE = ("dts", "sgm", "decoder")


@dataclass(frozen=True)
class ClipDataConfig:
    """Where clips come from and how they are kept.

    source: "generated": the generated world, num_videos to train on and num_heldout to measure on, rendered by
        `workers` processes. "folder": videos and pictures below `folder`, every heldout_every-th of them held out.
        "mixture": the mixtures of ReCoTRunConfig.feed, read while the stage trains; nothing is kept.
    fps, max_frames: of the frames that are taken of a video of the folder.
    clip_frames: frames per clip, whole groups. shard_clips: generated clips per file.
    keep: "features": the tower encodes once. "frames": frames are kept and the tower runs in every step.
    feature_dtype: of kept features; float16 halves the disk and is rounded alike with "frames".
    """

    source: Literal["generated", "folder", "mixture"]
    folder: str
    num_videos: int
    num_heldout: int
    heldout_every: int
    workers: int
    fps: float
    max_frames: int
    clip_frames: int
    shard_clips: int
    keep: Literal["features", "frames"]
    feature_dtype: Literal["float16", "float32"]


@dataclass(frozen=True)
class ReCoTRunConfig:
    """A run of the stage. tower: a model whose frozen tower is used, empty for the embedded one. batch_size: clips per
    micro-batch, image_share of them pictures; micro_batches of them make a step. dtype: of the computation, the tower's
    too; what is trained, its optimizer and the errors are float32.

    whole_share: share of clips of which nothing is hidden, every token of weight 1; after whole_from of the steps, all
    of them. After this stage the DTS reads whole clips alone; trained on masked ones alone it had never seen one, and
    rebuilt them far worse than masked ones (docs/recot.md).

    feed: of the data source "mixture": what it trains on ("train") and is measured by ("heldout"), without prompts; its
    buckets stand for batch_size, and its weights for image_share.
    mesh: devices of this host by axis, data and tensor; {} for one device. Clips are spread over data.
    start: "components": from the best linear code of the training features (train/recot_start.py); hundreds of steps
    from "random" weights do not come near it (docs/recot.md). "model": from the DTS of the tower's model.
    """

    tower: str
    start: Literal["components", "random", "model"]
    seed: int
    mesh: dict[str, int]
    num_steps: int
    batch_size: int
    micro_batches: int
    dtype: Literal["float32", "bfloat16"]
    image_share: float
    whole_share: float
    whole_from: float
    recot: ReCoTConfig
    data: ClipDataConfig
    feed: dict[str, DataConfig]
    optimizer: OptimizerConfig
    loop: LoopConfig

    def __post_init__(self):
        group = 1 << ("none", "x2", "x4", "x8").index(self.recot.compression)
        if self.data.clip_frames % group:
            raise ValueError(
                f"config.data.clip_frames={self.data.clip_frames}: a multiple of the {group} frames of a group is "
                f"accepted (config.recot.compression={self.recot.compression!r})"
            )
        if self.mesh and (set(self.mesh) != {"data", "tensor"} or self.batch_size % self.mesh["data"]):
            raise ValueError(
                f"config.mesh={self.mesh}, config.batch_size={self.batch_size}: the axes data and tensor are accepted, "
                "and a data axis that divides the batch"
            )
        for name, value, least in (
            ("num_steps", self.num_steps, 1),
            ("batch_size", self.batch_size, 1),
            ("micro_batches", self.micro_batches, 1),
            ("data.clip_frames", self.data.clip_frames, 1),
            ("data.heldout_every", self.data.heldout_every, 2),
            ("data.shard_clips", self.data.shard_clips, 1),
            ("data.workers", self.data.workers, 1),
        ):
            if value < least:
                raise ValueError(f"config.{name}={value}: at least {least} is accepted")
        if self.data.source == "mixture":
            self._check_feed()
        for part in self.optimizer.rates:
            if part.split("/")[0] not in TRAINABLE:
                raise ValueError(f"config.optimizer.rates has {part!r}: parts of {', '.join(TRAINABLE)} are accepted")
        for name in ("image_share", "whole_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"config.{name}={getattr(self, name)}: a share from 0 to below 1 is accepted")
        if not 0 < self.whole_from <= 1:
            raise ValueError(
                f"config.whole_from={self.whole_from}: a share of the steps above 0, at most 1 (no step of whole clips "
                "alone), is accepted"
            )

    def _check_feed(self) -> None:
        if set(self.feed) != {"train", "heldout"} or self.data.keep != "frames":
            raise ValueError(
                "config.data.source='mixture': config.feed.train and config.feed.heldout are wanted, and "
                "config.data.keep='frames'"
            )
        for name, feed in self.feed.items():
            if feed.prompt != "none" or feed.sampling.clip_frames != self.data.clip_frames:
                raise ValueError(
                    f"config.feed.{name}: prompt='none' and sampling.clip_frames={self.data.clip_frames} "
                    "(config.data.clip_frames) are accepted"
                )
            for bucket in feed.buckets.values() if self.mesh else ():
                if bucket.batch_size % self.mesh["data"]:
                    raise ValueError(
                        f"config.feed.{name}.buckets: batches of {bucket.batch_size}, which mesh.data="
                        f"{self.mesh['data']} does not divide"
                    )


class ReCoTBatch(NamedTuple):
    """clips: frames uint8 [N, t, S, S, 3], or tower features float [N, t, g, g, E]. is_image bool [N]: True where a
    clip is one picture repeated. is_whole bool [N]: True where nothing of a clip is hidden. draw uint32 [N]:
    seeds a clip's masking, so that it does not depend on the batch. sample_ids int [N]: which clips of the shards."""

    clips: Array
    is_image: Array
    is_whole: Array
    draw: Array
    sample_ids: Array


class ReCoTStage(NamedTuple):
    """What the loss needs to know: the model, whose dtype the tower shares, the tower's sizes, and the type that
    features are rounded to."""

    model: ReCoTModel
    vision: SiglipConfig
    feature_dtype: str

    @classmethod
    def of(cls, config: ReCoTRunConfig, vision: SiglipConfig, dts: DtsConfig) -> "ReCoTStage":
        """The stage of a run, over a model's tower and DTS."""
        model = ReCoTModel(config.recot, dts, dtype=jnp.dtype(config.dtype))
        return cls(model, vision, config.data.feature_dtype)


def tower_features(stage: ReCoTStage, params: Params, frames: Array) -> Array:
    """Features [N, t, g, g, E] of frames uint8 [N, t, S, S, 3]; no gradient reaches the tower."""
    pixels = to_pixels(frames.reshape(-1, *frames.shape[2:])).astype(stage.model.dtype)
    tokens = SiglipTower(stage.vision).apply({"params": params["vision_tower"]}, pixels)
    grid = resize_grid(tokens, stage.model.dts_config.grid_size).astype(stage.feature_dtype)
    return jax.lax.stop_gradient(grid.reshape(*frames.shape[:2], *grid.shape[1:]))


def clip_features(stage: ReCoTStage, params: Params, clips: Array) -> Array:
    """The clips as float32 features, whatever they are kept as."""
    features = tower_features(stage, params, clips) if clips.dtype == jnp.uint8 else clips
    return features.astype(jnp.float32)


def recot_loss(stage: ReCoTStage) -> Callable[[Params, ReCoTBatch, Any], LossTerms]:
    """The loss as a pure function (params, batch, key) -> terms; what is random follows from the batch's `draw`."""
    config = stage.model.config

    def loss(params: Params, batch: ReCoTBatch, key: Any = None) -> LossTerms:
        features = clip_features(stage, params, batch.clips)
        size, time, grid, _, _ = features.shape
        noise = jax.vmap(lambda seed: jax.random.gumbel(jax.random.key(seed), (time, grid * grid)))(batch.draw)
        variables = {"params": {name: params[name] for name in TRAINABLE}}
        output, masking = stage.model.apply(variables, features, batch.is_image, batch.is_whole, noise)
        errors = squared_errors(output, features)
        hidden, shown = masking.masked, ~masking.masked
        # Of a clip that is shown whole every token counts fully: nothing else of it would count.
        lesser = config.visible_weight if config.loss_positions == "all" else 0.0
        of_shown = jnp.where(batch.is_whole, 1.0, lesser)
        total = jnp.where(hidden, errors, 0).sum() + (of_shown[:, None, None] * jnp.where(shown, errors, 0)).sum()
        count = num_masked(batch.is_image, batch.is_whole, (time, grid * grid), config.sgm)
        number = (count + of_shown * (time * grid * grid - count)).sum()
        return LossTerms(
            {"reconstruction": Term(total, number)},
            {
                "error_hidden": Tally(jnp.where(hidden, errors, 0).sum(), hidden.sum()),
                "error_shown": Tally(jnp.where(shown, errors, 0).sum(), shown.sum()),
            },
        )

    return loss


def squared_errors(output: ReCoTOutput, features: Array) -> Array:
    """Squared error of each token [N, t, P], mean over its channels."""
    errors = jnp.square(output.rebuilt.astype(jnp.float32) - features).mean(-1)
    return errors.reshape(*errors.shape[:2], -1)


def recot_batches(shards: ClipShards, chosen: np.ndarray, config: ReCoTRunConfig) -> Callable[[int], ReCoTBatch]:
    """number -> a micro-batch of random clips among the chosen, config.image_share of them pictures (all of one kind
    where there is no other).

    Raises ValueError where nothing is chosen.
    """
    pictures, videos = chosen[shards.is_image[chosen]], chosen[~shards.is_image[chosen]]
    if not len(chosen):
        raise ValueError(f"{shards.folder} holds no clips to train on")
    size = config.batch_size
    num_pictures = round(size * config.image_share) if len(pictures) and len(videos) else size * bool(len(pictures))

    def make(number: int) -> ReCoTBatch:
        rng = np.random.default_rng([config.seed, number])
        parts = ((pictures, num_pictures), (videos, size - num_pictures))
        picked = np.concatenate([rng.choice(pool, count) if count else pool[:0] for pool, count in parts])
        return ReCoTBatch(shards.take(picked), shards.is_image[picked], *masking_draw(config, number, size), picked)

    return make


def masking_draw(config: ReCoTRunConfig, number: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which clips of a micro-batch are whole, bool [size], and what seeds their masks, uint32 [size]."""
    rng = np.random.default_rng([config.seed, number, 1])
    are_all = number // config.micro_batches >= round(config.whole_from * config.num_steps)
    is_whole = (rng.random(size) < config.whole_share) | are_all
    return is_whole, rng.integers(0, 2**32, size, np.uint32)
