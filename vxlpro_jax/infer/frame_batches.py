"""Frames of a video on their way to the encoder: decoded, made pixels and gathered in batches, each step in a thread.

Source: ours; SPEC 2 for the pixels. Every step is at most two items ahead of the next: memory does not grow with the
video.
"""

import os
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from vxlpro_jax.data.batching import bucket
from vxlpro_jax.data.image_transforms import preprocess
from vxlpro_jax.data.video_decode import FrameChunk, Video

_ITEMS_AHEAD = 2  # one alone makes both sides wait whenever one of them takes longer than usual
_MAX_THREADS = 8  # that make pixels; one makes about 100 frames of 1080p a second
Item = TypeVar("Item")


class FrameBatch(NamedTuple):
    """pixels float32 [N, S, S, 3]: the frames, then the last one again up to one of a few sizes. positions int64 [n]:
    places of the frames among those asked for; none in a last batch that only tells of losses. lost: frames, by number,
    found undecodable since the batch before. read_s: seconds that decoding and making pixels took since then."""

    pixels: np.ndarray
    positions: np.ndarray
    lost: tuple[int, ...]
    read_s: float


def frame_batches(
    video: Video,
    indices: np.ndarray,
    image_size: int,
    batch_len: int,
    group_len: int,
    on_damage: Literal["raise", "skip"],
) -> Generator[FrameBatch]:
    """Batches of batch_len frames, in order; the last one is padded to the next of a few numbers of groups.

    indices int64: ascending. batch_len: whole groups of group_len frames. Close it before the video: it reads ahead.
    """
    return _ahead(_batches(_ahead(_timed_chunks(video, indices, on_damage)), image_size, batch_len, group_len))


def _timed_chunks(
    video: Video, indices: np.ndarray, on_damage: Literal["raise", "skip"]
) -> Generator[tuple[FrameChunk, float]]:
    """Stretches of bounded bytes, whatever the size of a frame, with the seconds that decoding took."""
    start = time.perf_counter()
    for chunk in video.read_chunks(indices, on_damage=on_damage):
        yield chunk, time.perf_counter() - start
        start = time.perf_counter()


def _batches(
    chunks: Generator[tuple[FrameChunk, float]], image_size: int, batch_len: int, group_len: int
) -> Generator[FrameBatch]:
    pixels = np.empty((batch_len, image_size, image_size, 3), np.float32)
    positions: list[int] = []
    lost: tuple[int, ...] = ()
    read_s = 0.0
    with closing(chunks), ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        for chunk, decode_s in chunks:
            lost, read_s = lost + chunk.lost, read_s + decode_s
            start = 0
            while start < len(chunk.frames):
                began = time.perf_counter()
                stop = min(len(chunk.frames), start + batch_len - len(positions))
                _fill(pixels[len(positions) :], chunk.frames[start:stop], image_size, pool)
                positions += chunk.positions[start:stop].tolist()
                read_s += time.perf_counter() - began
                start = stop
                if len(positions) == batch_len:
                    yield FrameBatch(pixels, np.array(positions), lost, read_s)
                    pixels, positions, lost, read_s = np.empty_like(pixels), [], (), 0.0
    if positions or lost:
        length = padded_len(len(positions), group_len, batch_len)
        pixels[len(positions) : length] = pixels[len(positions) - 1]
        yield FrameBatch(pixels[:length], np.array(positions, np.int64), lost, read_s)


def padded_len(num_frames: int, group_len: int, batch_len: int) -> int:
    """How many frames a short batch is filled up to: a few numbers of whole groups; none where there is none."""
    num_groups = -(-num_frames // group_len)
    return min(group_len * bucket(num_groups, 1), batch_len) if num_groups else 0


def _fill(pixels: np.ndarray, frames: np.ndarray, image_size: int, pool: ThreadPoolExecutor) -> None:
    """Writes the frames' pixels to the beginning of an array, a share in each thread."""
    places = np.array_split(np.arange(len(frames)), min(_MAX_THREADS, len(frames)))

    def fill(share: np.ndarray) -> None:
        pixels[share] = preprocess(frames[share], image_size)

    list(pool.map(fill, places))


def _ahead(items: Generator[Item]) -> Generator[Item]:
    """The same items, the next ones being made in a thread while the last is used."""
    pool = ThreadPoolExecutor(1)
    try:
        coming = deque(pool.submit(_next, items) for _ in range(_ITEMS_AHEAD))
        while (item := coming.popleft().result()) is not None:
            coming.append(pool.submit(_next, items))
            yield item
    finally:
        pool.shutdown()
        items.close()


def _next(items: Iterator[Item]) -> Item | None:
    return next(items, None)
