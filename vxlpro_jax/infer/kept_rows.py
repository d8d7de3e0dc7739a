"""Which rows are kept of videos whose tokens lie on the host: scored block by block, planned as numbers.

Source: SPEC 9.3 to 9.7. The device holds blocks of fixed size and a few numbers per token; tokens that are dropped are
seen by the selector alone.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vxlpro_jax.models.selector import normalise_scores
from vxlpro_jax.models.video_xl_pro import VideoXLProModel
from vxlpro_jax.types import Array, RowBatch, RowPlan, Selection

GROUPS_PER_BLOCK = 64  # 38 MB of tokens at 3B in bfloat16
BLOCKS_AHEAD = 2  # on the device at once: one is computed while the next arrives


def plan_prompts(
    model: VideoXLProModel,
    params: Any,
    videos: Sequence[np.ndarray],
    batch: RowBatch,
    selection: Selection,
    length: int,
) -> tuple[RowPlan, np.ndarray]:
    """What each prompt keeps of the videos, as a plan of its rows; and the scores [B, G, P] of all visual tokens.

    videos: tokens [G, P, D] of each video, in the rows' order, of which slices are read; all rows ask about the same
    ones.
    """
    scores, plan = _plan(model, _raw_scores(model, params, videos, batch), batch, selection, length)
    return RowPlan(*map(np.asarray, plan)), np.asarray(scores)


def tokens_at(videos: Sequence[np.ndarray], number: np.ndarray) -> np.ndarray:
    """Tokens by their number among those of all videos, [..., D]; zeros where the number is negative."""
    tokens = np.zeros((*number.shape, videos[0].shape[-1]), videos[0].dtype)
    first = 0
    for video in videos:
        per_group = video.shape[1]
        own = (number >= first) & (number < first + len(video) * per_group)
        if own.any():
            tokens[own] = video[(number[own] - first) // per_group, (number[own] - first) % per_group]
        first += len(video) * per_group
    return tokens


def _raw_scores(model: VideoXLProModel, params: Any, videos: Sequence[np.ndarray], batch: RowBatch) -> jax.Array:
    """Scores [B, G, P] of all groups before they are stretched; padding groups at the end have 0."""
    num_groups = batch.stamp_ids.shape[1]
    size = min(num_groups, GROUPS_PER_BLOCK)
    query = _mean_query(model, params, batch)
    waiting: deque[jax.Array] = deque()
    parts: list[np.ndarray] = []
    for start, tokens in zip(range(0, num_groups, size), _blocks(videos, size), strict=False):
        stamps = (padded(part[:1, start : start + size], size, axis=1) for part in (batch.stamp_ids, batch.stamp_mask))
        waiting.append(_score_block(model, params, tokens[None], *stamps, query))
        if len(waiting) == BLOCKS_AHEAD:
            parts.append(np.asarray(waiting.popleft()))
    raw = np.concatenate([*parts, *map(np.asarray, waiting)], axis=1)
    return jnp.asarray(padded(raw[:, :num_groups], num_groups, axis=1))


def _blocks(videos: Sequence[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The groups of all videos, one after the other, in blocks of `size`; the last is padded with zeros."""
    ends = np.cumsum([len(video) for video in videos])
    for start in range(0, int(ends[-1]), size):
        parts = [
            video[max(0, start - end + len(video)) : max(0, start + size - end + len(video))]
            for video, end in zip(videos, ends, strict=True)
        ]
        yield padded(np.concatenate(parts), size, axis=0)


def padded(values: np.ndarray, size: int, axis: int) -> np.ndarray:
    """The values, and zeros up to `size` along an axis."""
    missing = [(0, 0)] * values.ndim
    missing[axis] = (0, size - values.shape[axis])
    return np.pad(values, missing) if missing[axis][1] else values


@partial(jax.jit, static_argnames=("model",))
def _mean_query(model: VideoXLProModel, params: Any, batch: RowBatch) -> Array:
    return model.apply({"params": params}, batch, method=VideoXLProModel.mean_query)


@partial(jax.jit, static_argnames=("model",))
def _score_block(model, params, tokens, stamp_ids, stamp_mask, mean_query) -> Array:
    """Raw scores [B, g, P] of a block of groups [1, g, P, D], whose stamps every row shares."""
    arguments = (tokens, stamp_ids, stamp_mask, mean_query)
    return model.apply({"params": params}, *arguments, method=VideoXLProModel.raw_scores)


@partial(jax.jit, static_argnames=("model", "length"))
def _plan(model, raw, batch, selection, length) -> tuple[Array, RowPlan]:
    """Stretched scores [B, G, P], and the rows that they keep."""
    scores = normalise_scores(raw, batch.video_of_group)
    plan, _ = model.apply({}, scores, batch, selection, length, method=VideoXLProModel.plan)
    return scores, plan
