"""Prompts and their videos' stamps to one batch of static shapes.

Source: SPEC 9.1, 9.2 and 9.7. Shapes are decided here and nowhere else: lengths are rounded up to a few sizes, so that
similar requests share a compiled program.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from vxlpro_jax.data.conversation import Prompt
from vxlpro_jax.types import IGNORE_LABEL, VIDEO_MARK, RowBatch

GroupStamps = Sequence[Sequence[int]]
"""Stamp token ids of each group of one video."""


class RowShapes(NamedTuple):
    """Static lengths of a batch: text tokens, groups, tokens of the longest stamp, rows before anything is dropped."""

    text_len: int
    num_groups: int
    stamp_len: int
    row_len: int


def bucket(length: int, smallest: int) -> int:
    """The next of smallest x (1, 1.5, 2, 3, 4, 6, 8, ...): at most half again as long, and few different sizes."""
    size = smallest
    while size < length:
        if size * 3 // 2 >= length and size % 2 == 0:
            return size * 3 // 2
        size *= 2
    return size


def row_shapes(prompts: Sequence[Prompt], stamps: Sequence[Sequence[GroupStamps]], tokens_per_group: int) -> RowShapes:
    """The exact lengths that hold these rows."""
    groups = [[stamp for video in row for stamp in video] for row in stamps]
    text_len = [int((prompt.ids != VIDEO_MARK).sum()) for prompt in prompts]
    row_len = [
        length + sum(len(stamp) + tokens_per_group for stamp in row)
        for length, row in zip(text_len, groups, strict=True)
    ]
    stamp_len = max((len(stamp) for row in groups for stamp in row), default=1)
    return RowShapes(max(text_len), max(1, *(len(row) for row in groups)) if groups else 1, stamp_len, max(row_len))


def bucketed(shapes: RowShapes, usual_stamp_len: int) -> RowShapes:
    """The shapes rounded up to the sizes that are compiled. usual_stamp_len: stamps are padded at least to it."""
    return RowShapes(
        text_len=bucket(shapes.text_len, 64),
        num_groups=bucket(shapes.num_groups, 4),
        stamp_len=max(shapes.stamp_len, usual_stamp_len),
        row_len=bucket(shapes.row_len, 128),
    )


def build_rows(
    prompts: Sequence[Prompt],
    stamps: Sequence[Sequence[GroupStamps]],
    tokens_per_group: int,
    selector_query: Literal["padded_row", "row", "question"],
    shapes: RowShapes | None = None,
) -> RowBatch:
    """The batch of `prompts`; stamps[b] lists, video by video, the stamps of row b's groups.

    shapes: lengths to pad to (None: exact). Raises ValueError when a row has not one video per mark or does not fit the
    shapes.
    """
    needed = row_shapes(prompts, stamps, tokens_per_group)
    shapes = shapes or needed
    if any(have < need for have, need in zip(shapes, needed, strict=True)):
        raise ValueError(
            f"rows need {needed}, the static shapes are {shapes}: enlarge them in data/batching.py's caller"
        )
    size = len(prompts)
    batch = RowBatch(
        text_ids=np.zeros((size, shapes.text_len), np.int32),
        query_mask=np.zeros((size, shapes.text_len), bool),
        stamp_ids=np.zeros((size, shapes.num_groups, shapes.stamp_len), np.int32),
        stamp_mask=np.zeros((size, shapes.num_groups, shapes.stamp_len), bool),
        video_of_group=np.full((size, shapes.num_groups), -1, np.int32),
        row_source=np.full((size, shapes.row_len), -1, np.int32),
        labels=np.full((size, shapes.text_len), IGNORE_LABEL, np.int32),
    )
    for index, (prompt, videos) in enumerate(zip(prompts, stamps, strict=True)):
        _fill_text(batch, index, prompt, selector_query)
        _fill_stamps(batch, index, videos)
        _fill_order(batch, index, prompt, videos, tokens_per_group)
    return batch


def _fill_text(batch: RowBatch, index: int, prompt: Prompt, selector_query: str) -> None:
    is_text = prompt.ids != VIDEO_MARK
    length = int(is_text.sum())
    batch.text_ids[index, :length] = prompt.ids[is_text]
    batch.labels[index, :length] = prompt.labels[is_text]
    if selector_query == "question":
        batch.query_mask[index, :length] = prompt.question[is_text]
    else:
        batch.query_mask[index, : None if selector_query == "padded_row" else length] = True


def _fill_stamps(batch: RowBatch, index: int, videos: Sequence[GroupStamps]) -> None:
    group = 0
    for video, stamps in enumerate(videos):
        for stamp in stamps:
            batch.stamp_ids[index, group, : len(stamp)] = stamp
            batch.stamp_mask[index, group, : len(stamp)] = True
            batch.video_of_group[index, group] = video
            group += 1


def _fill_order(
    batch: RowBatch, index: int, prompt: Prompt, videos: Sequence[GroupStamps], tokens_per_group: int
) -> None:
    marks = np.flatnonzero(prompt.ids == VIDEO_MARK)
    if len(marks) != len(videos):
        raise ValueError(
            f"row {index} has {len(marks)} places for videos and {len(videos)} videos: they must be one to one"
        )
    num_groups, stamp_len = batch.stamp_ids.shape[1:]
    first_stamp = batch.text_ids.shape[1]
    first_visual = first_stamp + num_groups * stamp_len
    pieces, text_at, group = [], 0, 0
    for text_len, stamps in zip(np.diff([-1, *marks, len(prompt.ids)]) - 1, [*videos, ()], strict=True):
        pieces.append(np.arange(text_at, text_at + text_len))
        text_at += text_len
        for stamp in stamps:
            pieces.append(first_stamp + group * stamp_len + np.arange(len(stamp)))
            pieces.append(first_visual + group * tokens_per_group + np.arange(tokens_per_group))
            group += 1
    order = np.concatenate(pieces)
    batch.row_source[index, : len(order)] = order
