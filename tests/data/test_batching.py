"""Batches of static shapes: order, masks and borders."""

import numpy as np
import pytest

from vxlpro_jax.data.batching import RowShapes, bucket, bucketed, build_rows, row_shapes
from vxlpro_jax.data.conversation import Prompt
from vxlpro_jax.types import IGNORE_LABEL, VIDEO_MARK

TOKENS = 2


def prompt_of(*ids: int, question: int = 2) -> Prompt:
    values = np.array(ids, np.int32)
    is_last = np.arange(len(ids)) >= len(ids) - question
    return Prompt(values, np.where(is_last, values, IGNORE_LABEL).astype(np.int32), is_last)


FIRST = prompt_of(11, VIDEO_MARK, 12, VIDEO_MARK, 13, 14)
FIRST_STAMPS = [[[5], [6, 7]], [[8]]]  # two videos, of two groups and of one; stamps of unequal length
SECOND = prompt_of(21, 22)
SHAPES = RowShapes(text_len=6, num_groups=4, stamp_len=3, row_len=20)


def spell_row(batch, index: int) -> list:
    """The row in reading order: ids of text and stamps, and (group, token) of visual places."""
    text_len, (num_groups, stamp_len) = batch.text_ids.shape[1], batch.stamp_ids.shape[1:]
    out = []
    for source in batch.row_source[index]:
        if source < 0:
            out.append(None)
        elif source < text_len:
            out.append(int(batch.text_ids[index, source]))
        elif source < text_len + num_groups * stamp_len:
            group, word = divmod(source - text_len, stamp_len)
            assert batch.stamp_mask[index, group, word]
            out.append(int(batch.stamp_ids[index, group, word]))
        else:
            out.append(divmod(int(source) - text_len - num_groups * stamp_len, TOKENS))
    return out


ROW = [11, 5, (0, 0), (0, 1), 6, 7, (1, 0), (1, 1), 12, 8, (2, 0), (2, 1), 13, 14]


@pytest.mark.parametrize("shapes", [None, SHAPES])
def test_rows_in_reading_order_whatever_the_shapes(shapes):
    batch = build_rows([FIRST, SECOND], [FIRST_STAMPS, []], TOKENS, "question", shapes)
    assert spell_row(batch, 0)[: len(ROW)] == ROW
    assert spell_row(batch, 1)[:2] == [21, 22]
    assert set(spell_row(batch, 0)[len(ROW) :]) <= {None} and set(spell_row(batch, 1)[2:]) == {None}
    groups = batch.video_of_group.shape[1]
    assert batch.video_of_group[0].tolist() == [0, 0, 1, -1][:groups]
    assert batch.video_of_group[1].tolist() == [-1] * groups
    assert batch.stamp_mask.sum((1, 2)).tolist() == [4, 0]
    assert batch.labels[0, :4].tolist() == [IGNORE_LABEL, IGNORE_LABEL, 13, 14]
    assert (batch.labels[0, 4:] == IGNORE_LABEL).all()
    assert {name: part.dtype.name for name, part in batch._asdict().items()} == {
        **dict.fromkeys(("text_ids", "stamp_ids", "video_of_group", "row_source", "labels"), "int32"),
        **dict.fromkeys(("query_mask", "stamp_mask"), "bool"),
    }


@pytest.mark.parametrize(
    ("query", "first", "second"),
    [
        ("question", [0, 0, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]),
        ("row", [1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]),
        ("padded_row", [1] * 6, [1] * 6),
    ],
)
def test_the_three_queries(query, first, second):
    batch = build_rows([FIRST, SECOND], [FIRST_STAMPS, []], TOKENS, query, SHAPES)
    assert batch.query_mask.astype(int).tolist() == [first, second]


def test_exact_shapes():
    assert row_shapes([FIRST, SECOND], [FIRST_STAMPS, []], TOKENS) == RowShapes(4, 3, 2, 14)
    assert row_shapes([SECOND], [[]], TOKENS) == RowShapes(2, 1, 1, 2)


@pytest.mark.parametrize("stamps", [[], [[[5]]], [[[5]], [[6]], [[7]]]])
def test_videos_and_their_places_must_be_one_to_one(stamps):
    with pytest.raises(ValueError, match=rf"row 0 has 2 places for videos and {len(stamps)} videos"):
        build_rows([FIRST], [stamps], TOKENS, "row")


@pytest.mark.parametrize("short", range(4))
def test_rows_that_do_not_fit_raise(short):
    exact = row_shapes([FIRST], [FIRST_STAMPS], TOKENS)
    shapes = RowShapes(*(length - (index == short) for index, length in enumerate(exact)))
    with pytest.raises(ValueError, match="rows need RowShapes"):
        build_rows([FIRST], [FIRST_STAMPS], TOKENS, "row", shapes)


@pytest.mark.parametrize("smallest", [1, 4, 64, 128])
def test_buckets_are_few_hold_what_they_must_and_waste_at_most_half(smallest):
    sizes = set()
    for length in range(1, 40 * smallest):
        size = bucket(length, smallest)
        assert size >= length and bucket(size, smallest) == size
        assert size <= max(smallest, 1.5 * length)
        sizes.add(size)
    assert len(sizes) <= 12


def test_bucketed_shapes_are_shared_by_similar_rows():
    one, two = (bucketed(RowShapes(text, 5, 2, row), 3) for text, row in ((65, 200), (90, 255)))
    assert one == two == RowShapes(96, 6, 3, 256)
    assert bucketed(RowShapes(1, 1, 4, 1), 3) == RowShapes(64, 4, 4, 128)
