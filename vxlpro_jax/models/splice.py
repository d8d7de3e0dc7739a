"""Videos into prompts: rotation and scores onto the video's rows, then one row of text, stamps and kept tokens.

Source: SPEC 9.2 and 9.5 to 9.7. Shapes stay static whatever is kept: kept rows are moved to the front and the rest is
padding.
"""

from typing import Literal, NamedTuple

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
    stamp_mask: Bool[Array, "B G W"], video_of_group: Int[Array, "B G"], num_tokens: int
) -> tuple[Int[Array, "B G W"], Int[Array, "B G P"]]:
    """Row number of every stamp and visual token within its own video, before anything is dropped."""
    real = (video_of_group >= 0)[..., None]
    stamp_len = stamp_mask.sum(-1)
    row_len = jnp.where(real[..., 0], stamp_len + num_tokens, 0)
    start = jnp.cumsum(row_len, -1) - row_len
    same_video = video_of_group[:, :, None] == video_of_group[:, None, :]
    video_start = jnp.where(same_video, start[:, None, :], jnp.iinfo(jnp.int32).max).min(-1)
    first = (start - video_start)[..., None]
    stamp_positions = first + jnp.cumsum(stamp_mask, -1) - stamp_mask
    return stamp_positions, first + stamp_len[..., None] + jnp.arange(num_tokens)


def mark_video_rows(
    stamps: Float[Array, "B G W D"],
    visual: Float[Array, "B G P D"],
    scores: Float[Array, "B G P"],
    batch: RowBatch,
    rotation_base: float | None,
    score_use: Literal["add", "gate", "none"],
) -> tuple[Float[Array, "B G W D"], Float[Array, "B G P D"]]:
    """Stamps and visual tokens rotated by their row number, and scores put into the visual ones (SPEC 9.5, 9.6).

    score_use: see SelectorConfig.
    """
    if rotation_base is not None:
        at_stamp, at_visual = video_positions(batch.stamp_mask, batch.video_of_group, visual.shape[2])
        stamps = rotate_rows(stamps, at_stamp, rotation_base)
        visual = rotate_rows(visual, at_visual, rotation_base)
    if score_use == "none":
        return stamps, visual
    return stamps, _scored(visual, scores, score_use)


def _scored(visual, scores, score_use: str):
    added = scores[..., None].astype(visual.dtype)
    return (visual * added if score_use == "gate" else visual) + added


def _kept_in_order(
    keep_visual: Bool[Array, "B G P"], keep_stamps: Bool[Array, "B G W"], batch: RowBatch, length: int
) -> tuple[Int[Array, "B L"], Bool[Array, "B L"]]:
    """Sources (RowBatch.row_source) of the text and of what was kept, in reading order; the second is False where there
    are no more."""
    size = keep_visual.shape[0]
    text = jnp.ones(batch.text_ids.shape, bool)
    kept = jnp.concatenate([text, keep_stamps.reshape(size, -1), keep_visual.reshape(size, -1)], axis=1)
    wanted = (batch.row_source >= 0) & jnp.take_along_axis(kept, jnp.maximum(batch.row_source, 0), axis=1)
    order = jnp.argsort(~wanted, axis=1, stable=True)[:, :length]
    valid = jnp.take_along_axis(wanted, order, axis=1)
    return jnp.where(valid, jnp.take_along_axis(batch.row_source, order, axis=1), -1), valid


def merge_rows(
    text: Float[Array, "B Lt D"],
    stamps: Float[Array, "B G W D"],
    visual: Float[Array, "B G P D"],
    keep_visual: Bool[Array, "B G P"],
    keep_stamps: Bool[Array, "B G W"],
    batch: RowBatch,
    length: int,
) -> MergedRows:
    """One row per prompt: text and what was kept of its videos, in reading order, moved to the front of `length` rows.

    Rows beyond `length` are cut at the right.
    """
    size, dim = text.shape[0], text.shape[-1]
    rows = jnp.concatenate([part.reshape(size, -1, dim) for part in (text, stamps, visual)], axis=1)
    source, valid = _kept_in_order(keep_visual, keep_stamps, batch, length)
    embeds = jnp.take_along_axis(rows, jnp.maximum(source, 0)[..., None], axis=1)
    text_len = batch.labels.shape[1]
    label = jnp.take_along_axis(batch.labels, jnp.clip(source, 0, text_len - 1), axis=1)
    labels = jnp.where((source >= 0) & (source < text_len), label, IGNORE_LABEL)
    return MergedRows(jnp.where(valid[..., None], embeds, 0), valid, labels, source)


def plan_rows(
    scores: Float[Array, "B G P"],
    keep_visual: Bool[Array, "B G P"],
    keep_stamps: Bool[Array, "B G W"],
    batch: RowBatch,
    length: int,
) -> RowPlan:
    """The rows that merge_rows makes, as a plan."""
    size, num_visual = scores.shape[0], scores[0].size
    source, valid = _kept_in_order(keep_visual, keep_stamps, batch, length)
    at_stamp, at_visual = video_positions(batch.stamp_mask, batch.video_of_group, scores.shape[2])
    text = jnp.zeros_like(batch.text_ids)
    stamps = batch.stamp_ids.reshape(size, -1)
    numbers = jnp.broadcast_to(jnp.arange(num_visual), (size, num_visual))

    def pick(text, stamps, visual, missing):
        rows = jnp.concatenate([text, stamps.reshape(size, -1), visual.reshape(size, -1)], axis=1)
        return jnp.where(valid, jnp.take_along_axis(rows, jnp.maximum(source, 0), axis=1), missing)

    return RowPlan(
        ids=pick(batch.text_ids, stamps, jnp.zeros_like(numbers), 0),
        visual=pick(text - 1, jnp.full_like(stamps, -1), numbers, -1),
        place=pick(text, at_stamp, at_visual, 0),
        score=pick(text.astype(scores.dtype), jnp.zeros(stamps.shape, scores.dtype), scores, 0),
        valid=valid,
    )


def mark_planned_rows(
    embeds: Float[Array, "B L D"],
    plan: RowPlan,
    rotation_base: float | None,
    score_use: Literal["add", "gate", "none"],
) -> Float[Array, "B L D"]:
    """mark_video_rows for rows that a plan names. embeds: tokens' embeddings and visual tokens, in the plan's order."""
    if rotation_base is not None:
        embeds = rotate_rows(embeds, plan.place, rotation_base)
    if score_use == "none":
        return embeds
    return jnp.where((plan.visual >= 0)[..., None], _scored(embeds, plan.score, score_use), embeds)
