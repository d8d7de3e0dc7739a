"""A model of the smallest sizes at which nothing coincides, with lively random weights, and random rows for it.

Source: ours. Every width differs from every other where it can, so that an axis taken for another one fails.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vxlpro_jax.data.batching import RowShapes, build_rows
from vxlpro_jax.data.conversation import Prompt
from vxlpro_jax.models.part_configs import DtsConfig, ProjectorConfig, Qwen2Config, SelectorConfig, SiglipConfig
from vxlpro_jax.models.presets import VideoXLProConfig
from vxlpro_jax.models.qwen2 import KVCache
from vxlpro_jax.models.video_xl_pro import VideoXLProModel, init_params
from vxlpro_jax.types import IGNORE_LABEL, VIDEO_MARK, RowBatch, Selection, StampConfig

SMALL = VideoXLProConfig(
    # One row and column of pixels is left over, and the tower's grid of 5 is resized to 4.
    vision=SiglipConfig(image_size=11, patch_size=2, dim=16, num_layers=2, num_heads=2, mlp_dim=24, norm_eps=1e-6),
    dts=DtsConfig(
        dim=16,
        frames_per_group=4,
        grid_size=4,
        num_norm_groups=4,
        norm_eps=1e-6,
        max_relative_offset=6,
        frame_packing="released",
        relative_term="released",
    ),
    projector=ProjectorConfig(dim=32, pool_stride=2, pool_mode="average"),
    selector=SelectorConfig(
        num_heads=4,
        keep_multiple=2,
        selection="budget",
        selector_query="question",
        query_encoder="embeddings",
        score_use="add",
        rotation_base=1e4,
    ),
    stamps=StampConfig(text="{:03.0f}", num_tokens=3),
    llm=Qwen2Config(
        vocab_size=64,
        dim=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        mlp_dim=40,
        rope_base=1e4,
        norm_eps=1e-6,
        tie_embeddings=False,
    ),
    max_context_len=128,
    short_group="pad_last",
    label_mask="answers",
    picture_views="single",
)


def with_selector(**switches) -> VideoXLProConfig:
    return replace(SMALL, selector=replace(SMALL.selector, **switches))


def with_dts(**switches) -> VideoXLProConfig:
    return replace(SMALL, dts=replace(SMALL.dts, **switches))


@cache
def small_params(config: VideoXLProConfig = SMALL):
    """Fresh parameters with noise on every leaf: none stays at zero or one, where a fault would not show."""
    params = nn.unbox(jax.jit(init_params, static_argnums=0)(config, jax.random.key(0)))
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    noisy = [leaf + 0.2 * rng.standard_normal(leaf.shape).astype(np.float32) for leaf in leaves]
    return jax.tree.unflatten(tree, noisy)


class Row(NamedTuple):
    """One prompt with its videos: stamps[v][g], the ids of group g's stamp in video v; visual [G, P, D] of all."""

    prompt: Prompt
    stamps: list[list[list[int]]]
    visual: np.ndarray


def make_row(seed: int, videos: Sequence[Sequence[int]], text_len: int = 9, question_len: int = 4) -> Row:
    """Random contents. videos: for each video, the number of stamp tokens of each of its groups.

    Videos stand after two tokens of text, one token apart; the question ends the row, its last two tokens are labelled.
    """
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, SMALL.llm.vocab_size, text_len)
    for index in range(len(videos)):
        ids = np.insert(ids, 2 + 2 * index, VIDEO_MARK)
    question = np.arange(len(ids)) >= len(ids) - question_len
    labels = np.where(np.arange(len(ids)) >= len(ids) - 2, ids, IGNORE_LABEL)
    stamps = [[rng.integers(1, SMALL.llm.vocab_size, size).tolist() for size in video] for video in videos]
    num_groups = sum(len(video) for video in videos)
    visual = rng.standard_normal((num_groups, SMALL.tokens_per_group, SMALL.llm.dim)).astype(np.float32)
    return Row(Prompt(ids.astype(np.int32), labels.astype(np.int32), question), stamps, visual)


def make_batch(
    rows: Sequence[Row], query: str = "question", shapes: RowShapes | None = None
) -> tuple[np.ndarray, RowBatch]:
    """(visual [B, G, P, D], batch). Padding groups hold large numbers: what reads them shows."""
    batch = build_rows(
        [row.prompt for row in rows], [row.stamps for row in rows], SMALL.tokens_per_group, query, shapes
    )
    visual = np.full((len(rows), batch.stamp_ids.shape[1], *rows[0].visual.shape[1:]), 50, np.float32)
    for index, row in enumerate(rows):
        visual[index, : len(row.visual)] = row.visual
    return visual, batch


def keep_all(batch: RowBatch) -> Selection:
    size, groups = batch.video_of_group.shape
    return Selection(num_keep=np.full((size, groups), 10**6, np.int32), budget=np.full(size, 10**6, np.int32))


@partial(jax.jit, static_argnums=(0, 1))
def run(config: VideoXLProConfig, method, params, *arguments):
    """A method of the model (or a function of a bound model), compiled once per config and shapes."""
    return VideoXLProModel(config).apply({"params": params}, *arguments, method=method)


@partial(jax.jit, static_argnames=("config", "length"))
def read_rows(params, visual, batch, selection, config: VideoXLProConfig = SMALL, length: int | None = None):
    """(merged rows, scores, logits) over `length` places (None: as many as the batch has)."""

    def forward(model):
        rows, scores = model.merge(visual, batch, selection, length or batch.row_source.shape[1])
        positions = jnp.maximum(jnp.cumsum(rows.valid, -1) - 1, 0)
        return rows, scores, model.llm.logits(model.llm(rows.embeds, positions, rows.valid)[0])

    return VideoXLProModel(config).apply({"params": params}, method=forward)


def empty_cache(size: int, length: int, config: VideoXLProConfig = SMALL) -> KVCache:
    llm = config.llm
    shape = (llm.num_layers, size, length, llm.num_kv_heads, llm.head_dim)
    return KVCache(jnp.zeros(shape), jnp.zeros(shape), jnp.zeros((size, length), bool), jnp.int32(0))
