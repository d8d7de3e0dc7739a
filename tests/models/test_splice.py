"""Rows put together: positions, marks and order against slow references in numpy."""

import jax
import numpy as np
import pytest

from tests.small_model import SMALL, keep_all, make_batch, make_row
from vxlpro_jax.data.batching import RowShapes
from vxlpro_jax.models.rope import rotate_rows
from vxlpro_jax.models.splice import (
    mark_planned_rows,
    mark_video_rows,
    merge_rows,
    plan_rows,
    video_positions,
)
from vxlpro_jax.types import IGNORE_LABEL

MERGE = jax.jit(merge_rows, static_argnames="length")
MARK = jax.jit(mark_video_rows, static_argnames=("rotation_base", "score_use"))
PLAN = jax.jit(plan_rows, static_argnames="length")
MARK_PLANNED = jax.jit(mark_planned_rows, static_argnames=("rotation_base", "score_use"))
POSITIONS = jax.jit(video_positions, static_argnames="num_tokens")
ROTATE = jax.jit(rotate_rows, static_argnames="base")
TOKENS = SMALL.tokens_per_group
ROWS = [make_row(1, [[3, 4, 3], [2]]), make_row(2, [[4]], text_len=5)]
SHAPES = RowShapes(text_len=12, num_groups=5, stamp_len=6, row_len=60)


def test_positions_count_rows_of_each_video_from_zero():
    _, batch = make_batch(ROWS, shapes=SHAPES)
    at_stamp, at_visual = POSITIONS(batch.stamp_mask, batch.video_of_group, num_tokens=TOKENS)
    for index, row in enumerate(ROWS):
        group = 0
        for video in row.stamps:
            place = 0
            for stamp in video:
                assert at_stamp[index, group, : len(stamp)].tolist() == list(range(place, place + len(stamp)))
                place += len(stamp)
                assert at_visual[index, group].tolist() == list(range(place, place + TOKENS))
                place += TOKENS
                group += 1


def random_parts(batch, seed=0):
    rng = np.random.default_rng(seed)
    size, groups, words = batch.stamp_ids.shape
    text = rng.standard_normal((*batch.text_ids.shape, 8)).astype(np.float32)
    stamps = rng.standard_normal((size, groups, words, 8)).astype(np.float32)
    visual = rng.standard_normal((size, groups, TOKENS, 8)).astype(np.float32)
    return text, stamps, visual, rng.random((size, groups, TOKENS)).astype(np.float32)


def test_marks_are_rotation_and_scores_and_each_can_be_left_out():
    _, batch = make_batch(ROWS, shapes=SHAPES)
    _, stamps, visual, scores = random_parts(batch)
    at_stamp, at_visual = POSITIONS(batch.stamp_mask, batch.video_of_group, num_tokens=TOKENS)
    plain = MARK(stamps, visual, scores, batch, rotation_base=None, score_use="none")
    assert np.array_equal(plain[0], stamps) and np.array_equal(plain[1], visual)
    scored = MARK(stamps, visual, scores, batch, rotation_base=None, score_use="add")
    assert np.array_equal(scored[0], stamps) and np.array_equal(scored[1], visual + scores[..., None])
    gated = MARK(stamps, visual, scores, batch, rotation_base=None, score_use="gate")
    np.testing.assert_allclose(gated[1], (visual + 1) * scores[..., None], atol=1e-6)
    both = MARK(stamps, visual, scores, batch, rotation_base=100.0, score_use="add")
    np.testing.assert_allclose(both[0], ROTATE(stamps, at_stamp, base=100.0), atol=1e-6)
    # The score comes after the rotation.
    np.testing.assert_allclose(both[1], ROTATE(visual, at_visual, base=100.0) + scores[..., None], atol=1e-6)


def reference_row(row, text, stamps, visual, keep_visual, keep_stamps, labels):
    """(embeds, labels) of one row, by walking its prompt."""
    out, out_labels, at_text, video, group = [], [], 0, 0, 0
    for token in row.prompt.ids:
        if token >= 0:
            out.append(text[at_text])
            out_labels.append(labels[at_text])
            at_text += 1
            continue
        for stamp in row.stamps[video]:
            kept = [stamps[group, i] for i in range(len(stamp)) if keep_stamps[group, i]]
            kept += [visual[group, i] for i in range(TOKENS) if keep_visual[group, i]]
            out += kept
            out_labels += [IGNORE_LABEL] * len(kept)
            group += 1
        video += 1
    return np.array(out), np.array(out_labels)


@pytest.mark.parametrize("length", [60, 20])
def test_rows_are_in_reading_order_and_cut_at_the_right(length):
    _, batch = make_batch(ROWS, shapes=SHAPES)
    text, stamps, visual, scores = random_parts(batch)
    keep_visual = scores > 0.4
    keep_stamps = batch.stamp_mask & keep_visual.any(-1)[..., None]
    merged = MERGE(text, stamps, visual, keep_visual, keep_stamps, batch, length=length)
    assert merged.embeds.shape == (2, length, 8)
    lengths = []
    for index, row in enumerate(ROWS):
        embeds, labels = reference_row(
            row, text[index], stamps[index], visual[index], keep_visual[index], keep_stamps[index], batch.labels[index]
        )
        used = min(len(embeds), length)
        lengths.append(len(embeds))
        np.testing.assert_array_equal(merged.embeds[index, :used], embeds[:used])
        np.testing.assert_array_equal(merged.labels[index, :used], labels[:used])
        np.testing.assert_array_equal(merged.valid[index], np.arange(length) < used)
        assert (np.asarray(merged.embeds[index, used:]) == 0).all()
        assert (np.asarray(merged.labels[index, used:]) == IGNORE_LABEL).all()
        assert (np.asarray(merged.source[index, used:]) == -1).all()
    assert max(lengths) > 20  # something is cut


def test_source_names_where_each_row_came_from():
    _, batch = make_batch(ROWS, shapes=SHAPES)
    text, stamps, visual, _ = random_parts(batch)
    everything = np.concatenate([part.reshape(2, -1, 8) for part in (text, stamps, visual)], axis=1)
    keep = keep_all(batch).budget[:, None, None] > np.zeros(visual.shape[:3])
    merged = MERGE(text, stamps, visual, keep, batch.stamp_mask, batch, length=60)
    for index in range(2):
        used = int(merged.valid[index].sum())
        source = np.asarray(merged.source[index, :used])
        assert np.array_equal(source, batch.row_source[index][:used])
        np.testing.assert_array_equal(merged.embeds[index, :used], everything[index][source])


@pytest.mark.parametrize("score_use, base", [("add", 100.0), ("gate", 100.0), ("none", None)])
def test_rows_made_from_a_plan_are_the_merged_rows(score_use, base):
    """From any piece of the plan, with nothing but its own tokens and visual tokens."""
    _, batch = make_batch(ROWS, shapes=SHAPES)
    _, _, visual, scores = random_parts(batch)
    rng = np.random.default_rng(5)
    table = rng.standard_normal((SMALL.llm.vocab_size, 8)).astype(np.float32)
    keep_visual, keep_stamps = rng.random(scores.shape) < 0.6, batch.stamp_mask & (rng.random((2, 5, 1)) < 0.7)
    switches = {"rotation_base": base, "score_use": score_use}
    stamps, marked = MARK(table[batch.stamp_ids], visual, scores, batch, **switches)
    merged = MERGE(table[batch.text_ids], stamps, marked, keep_visual, keep_stamps, batch, length=40)
    plan = PLAN(scores, keep_visual, keep_stamps, batch, length=40)
    np.testing.assert_array_equal(plan.valid, merged.valid)
    flat = visual.reshape(2, -1, 8)
    for piece in (slice(0, 16), slice(16, 40)):
        part = jax.tree.map(lambda field, at=piece: field[:, at], plan)
        own = np.stack([flat[row][np.maximum(part.visual[row], 0)] for row in range(2)])
        embeds = np.where(np.asarray(part.visual >= 0)[..., None], own, table[part.ids])
        made = np.asarray(MARK_PLANNED(embeds, part, **switches))
        valid = np.asarray(part.valid)
        np.testing.assert_allclose(made[valid], np.asarray(merged.embeds[:, piece])[valid], atol=1e-5)
    assert (np.asarray(plan.visual) >= 0).sum() > 10
