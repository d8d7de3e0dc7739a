"""Videos into prompts: which rows of text, stamps and kept tokens the LLM reads, and what a video's rows carry besides.

Source: SPEC 9.2 and 9.5 to 9.7. Shapes stay static whatever is kept: kept rows are moved to the front and the rest is
padding. Rows are planned first and made afterwards, so that what is dropped costs a few numbers and no width.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vxlpro_jax.models.rope import rotate_rows
from vxlpro_jax.types import IGNORE_LABEL, RowBatch, RowPlan


class MergedRows(NamedTuple):
    """What the LLM reads. embeds [B, L, D]; valid bool [B, L], True = real, always a prefix; labels int32 [B, L];
    source int32 [B, L]: where each row came from, as in RowBatch.row_source (-1 = padding)."""

    embeds: Array
    valid: Array
    labels: Array
    source: Array


def video_positions(
    stamp_mask: Bool[Array, "B G W"],
    video_of_group: Int[Array, "B G"],
    num_tokens: int,
    trained_rows: int | None = None,
) -> tuple[Int[Array, "B G W"], Int[Array, "B G P"]]:
    """Row number of every stamp and visual token within its own video, before anything is dropped. trained_rows: see
    SelectorConfig; within a group rows keep their distance."""
    real = (video_of_group >= 0)[..., None]
    stamp_len = stamp_mask.sum(-1)
    row_len = jnp.where(real[..., 0], stamp_len + num_tokens, 0)
    start = jnp.cumsum(row_len, -1) - row_len
    opens_video = jnp.diff(video_of_group, axis=-1, prepend=-1) != 0
    video_start = jax.lax.cummax(jnp.where(opens_video, start, 0), axis=1)  # a video's groups stand together
    first = start - video_start
    if trained_rows is not None:
        video = jnp.where(video_of_group >= 0, video_of_group, video_of_group.shape[1])
        length = jax.vmap(lambda n, v: jax.ops.segment_sum(n, v, v.size + 1)[v])(row_len, video)
        first = jnp.floor(first * jnp.minimum(1.0, trained_rows / jnp.maximum(length, 1))).astype(first.dtype)
    first = first[..., None]
    stamp_positions = first + jnp.cumsum(stamp_mask, -1) - stamp_mask
    return stamp_positions, first + stamp_len[..., None] + jnp.arange(num_tokens)


def plan_rows(
    scores: Float[Array, "B G P"],
    keep_visual: Bool[Array, "B G P"],
    keep_stamps: Bool[Array, "B G W"],
    batch: RowBatch,
    length: int,
    trained_rows: int | None = None,
) -> tuple[RowPlan, Int[Array, "B L"]]:
    """Text and what was kept of the videos, moved to the front of `length` rows; what is beyond is cut at the right.

    trained_rows: see SelectorConfig. The second is where each row came from, as in RowBatch.row_source; -1 = padding.
    """
    size, text_len = batch.text_ids.shape

    def per_source(of_text, of_stamps, of_visual):
        return jnp.concatenate([part.reshape(size, -1) for part in (of_text, of_stamps, of_visual)], axis=1)

    no_text, no_stamps = jnp.zeros((size, text_len), jnp.int32), jnp.zeros(batch.stamp_ids.shape, jnp.int32)
    no_visual = jnp.zeros(scores.shape, jnp.int32)
    kept = per_source(no_text == 0, keep_stamps, keep_visual)
    wanted = (batch.row_source >= 0) & jnp.take_along_axis(kept, jnp.maximum(batch.row_source, 0), axis=1)
    place = jnp.where(wanted, jnp.cumsum(wanted, axis=1) - 1, length)
    empty = jnp.full((size, length), -1, jnp.int32)
    source = empty.at[jnp.arange(size)[:, None], place].set(batch.row_source, mode="drop")

    def at_source(of_text, of_stamps, of_visual):
        values = per_source(of_text, of_stamps, of_visual)
        return jnp.where(source >= 0, jnp.take_along_axis(values, jnp.maximum(source, 0), axis=1), 0)

    positions = video_positions(batch.stamp_mask, batch.video_of_group, scores.shape[2], trained_rows)
    first_visual = text_len + batch.stamp_ids[0].size
    plan = RowPlan(
        ids=at_source(batch.text_ids, batch.stamp_ids, no_visual),
        visual=jnp.maximum(source - first_visual, -1),
        place=at_source(no_text, *positions),
        score=at_source(no_text.astype(scores.dtype), no_stamps.astype(scores.dtype), scores),
        valid=source >= 0,
    )
    return plan, source


def labels_at(source: Int[Array, "B L"], batch: RowBatch) -> Int[Array, "B L"]:
    """Labels of the rows that came from there; none but text has one."""
    text_len = batch.labels.shape[1]
    label = jnp.take_along_axis(batch.labels, jnp.clip(source, 0, text_len - 1), axis=1)
    return jnp.where((source >= 0) & (source < text_len), label, IGNORE_LABEL)


def mark_rows(
    embeds: Float[Array, "B L D"],
    plan: RowPlan,
    rotation_base: float | None,
    score_use: Literal["add", "gate", "none"],
) -> Float[Array, "B L D"]:
    """Rows of videos rotated by their row number, and scores put into the visual ones (SPEC 9.5, 9.6); padding zero.

    embeds: tokens' embeddings and visual tokens, in the plan's order. score_use: see SelectorConfig.
    """
    if rotation_base is not None:
        embeds = rotate_rows(embeds, plan.place, rotation_base)
    if score_use != "none":
        added = plan.score[..., None].astype(embeds.dtype)
        marked = (embeds * added if score_use == "gate" else embeds) + added
        embeds = jnp.where((plan.visual >= 0)[..., None], marked, embeds)
    return jnp.where(plan.valid[..., None], embeds, 0)
