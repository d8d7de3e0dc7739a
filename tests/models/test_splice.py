"""Rows put together: positions, marks and order against slow references in numpy."""

import jax
import numpy as np
import pytest

from tests.small_model import SMALL, make_batch, make_row
from vxlpro_jax.data.batching import RowShapes
from vxlpro_jax.models.rope import rotate_rows
from vxlpro_jax.models.splice import labels_at, mark_rows, plan_rows, video_positions
from vxlpro_jax.types import IGNORE_LABEL

PLAN = jax.jit(plan_rows, static_argnames=("length", "trained_rows"))
MARK = jax.jit(mark_rows, static_argnames=("rotation_base", "score_use"))
POSITIONS = jax.jit(video_positions, static_argnames=("num_tokens", "trained_rows"))
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


def test_positions_of_thousands_of_groups_need_no_square_of_them():
    """Several videos one after the other, with stamps of any length, and what is computed grows with the groups."""
    rng = np.random.default_rng(0)
    video = np.sort(rng.integers(0, 5, (1, 3000)).astype(np.int32), axis=1)
    video[0, 2900:] = -1
    stamp_mask = np.arange(6) < rng.integers(1, 7, (1, 3000, 1))
    at_stamp, at_visual = map(np.asarray, POSITIONS(stamp_mask, video, num_tokens=TOKENS))
    for number in range(5):
        groups = np.flatnonzero(video[0] == number)
        place = np.concatenate([np.append(at_stamp[0, g][stamp_mask[0, g]], at_visual[0, g]) for g in groups])
        np.testing.assert_array_equal(place, np.arange(len(place)))
    compiled = POSITIONS.lower(stamp_mask, video, num_tokens=TOKENS).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 3000 * 400


def test_a_video_longer_than_any_in_training_is_turned_no_further():
    """Three videos: one much too long, one that just fits, one short; then padding."""
    video = np.repeat([0, 1, 2, -1], [400, 20, 7, 5])[None].astype(np.int32)
    stamp_mask = np.ones((1, video.size, 3), bool)
    plain = [np.asarray(part)[0] for part in POSITIONS(stamp_mask, video, num_tokens=4)]
    fitted = [np.asarray(part)[0] for part in POSITIONS(stamp_mask, video, num_tokens=4, trained_rows=140)]
    for before, after in zip(plain, fitted, strict=True):
        np.testing.assert_array_equal(before[400:427], after[400:427])
        np.testing.assert_array_equal(np.diff(before[:427]), np.diff(after[:427]))  # a group stays what it was
    begins = fitted[0][:400, 0]
    np.testing.assert_array_equal(begins, np.arange(400) * 140 // 400)
    assert fitted[1][:427].max() < 140 + 7


def test_a_plan_turns_rows_as_its_config_says():
    _, batch = make_batch(ROWS, shapes=SHAPES)
    scores = np.zeros((2, SHAPES.num_groups, TOKENS), np.float32)
    kept = np.ones(scores.shape, bool), batch.stamp_mask
    far, near = (np.asarray(PLAN(scores, *kept, batch, length=60, trained_rows=rows)[0].place) for rows in (None, 4))
    assert near.max() < far.max() and near.min() == 0 and (near <= far).all()


def plan_everything(batch, scores):
    return PLAN(scores, np.ones(scores.shape, bool), batch.stamp_mask, batch, length=60)


def test_marks_are_rotation_and_scores_and_each_can_be_left_out():
    _, batch = make_batch(ROWS, shapes=SHAPES)
    *parts, scores = random_parts(batch)
    everything = np.concatenate([part.reshape(2, -1, 8) for part in parts], axis=1)
    plan, source = plan_everything(batch, scores)
    source = np.asarray(source)
    rows = np.take_along_axis(everything, np.maximum(source, 0)[..., None], axis=1)
    text_len = batch.text_ids.shape[1]
    places = [np.asarray(part).reshape(2, -1) for part in POSITIONS(batch.stamp_mask, batch.video_of_group, TOKENS)]
    places = np.concatenate([np.zeros((2, text_len), np.int32), *places], axis=1)
    positions = np.where(source >= 0, np.take_along_axis(places, np.maximum(source, 0), axis=1), 0)
    first_visual = text_len + batch.stamp_ids[0].size
    is_visual = source >= first_visual
    padded = np.concatenate([np.zeros((2, first_visual), np.float32), scores.reshape(2, -1)], axis=1)
    added = np.where(is_visual, np.take_along_axis(padded, np.maximum(source, 0), axis=1), 0)[..., None]
    valid = (source >= 0)[..., None]

    def marked(rotation_base, score_use):
        return np.asarray(MARK(rows, plan, rotation_base=rotation_base, score_use=score_use))

    assert np.array_equal(marked(None, "none"), np.where(valid, rows, 0))
    assert np.array_equal(marked(None, "add"), np.where(valid, rows + added, 0))
    gated = np.where(is_visual[..., None], (rows + 1) * added, rows)
    np.testing.assert_allclose(marked(None, "gate"), np.where(valid, gated, 0), atol=1e-6)
    # The score comes after the rotation; text is not rotated.
    rotated = np.asarray(ROTATE(rows, positions, base=100.0)) + added
    np.testing.assert_allclose(marked(100.0, "add"), np.where(valid, rotated, 0), atol=1e-6)
    is_text = (source >= 0) & (source < text_len)
    assert np.array_equal(marked(100.0, "add")[is_text], rows[is_text]) and (positions[~is_text] > 0).any()


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
    everything = np.concatenate([part.reshape(2, -1, 8) for part in (text, stamps, visual)], axis=1)
    keep_visual = scores > 0.4
    keep_stamps = batch.stamp_mask & keep_visual.any(-1)[..., None]
    plan, source = PLAN(scores, keep_visual, keep_stamps, batch, length=length)
    found_labels = np.asarray(labels_at(source, batch))
    assert source.shape == (2, length)
    lengths = []
    for index, row in enumerate(ROWS):
        embeds, labels = reference_row(
            row, text[index], stamps[index], visual[index], keep_visual[index], keep_stamps[index], batch.labels[index]
        )
        used = min(len(embeds), length)
        lengths.append(len(embeds))
        np.testing.assert_array_equal(everything[index, source[index, :used]], embeds[:used])
        np.testing.assert_array_equal(found_labels[index, :used], labels[:used])
        np.testing.assert_array_equal(plan.valid[index], np.arange(length) < used)
        tokens = np.concatenate([batch.text_ids[index], batch.stamp_ids[index].reshape(-1)])
        is_visual = np.asarray(source[index, :used]) >= len(tokens)
        np.testing.assert_array_equal(
            np.asarray(plan.ids[index, :used])[~is_visual], tokens[np.asarray(source[index, :used])[~is_visual]]
        )
        expected = np.where(is_visual, np.asarray(source[index, :used]) - len(tokens), -1)
        np.testing.assert_array_equal(plan.visual[index, :used], expected)
        for field, empty in ((source, -1), (found_labels, IGNORE_LABEL), (plan.score, 0), (plan.visual, -1)):
            assert (np.asarray(field[index, used:]) == empty).all()
    assert max(lengths) > 20  # something is cut


def test_source_names_where_each_row_came_from():
    _, batch = make_batch(ROWS, shapes=SHAPES)
    _, source = plan_everything(batch, random_parts(batch)[-1])
    for index in range(2):
        used = int((source[index] >= 0).sum())
        assert np.array_equal(source[index, :used], batch.row_source[index][:used])
        assert (source[index, used:] == -1).all()
