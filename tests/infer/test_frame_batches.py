"""Frames in batches: the right ones in order, lost ones told, and made ahead of whoever takes them, but not far."""

import time
from contextlib import closing

import numpy as np
import pytest

from tests.infer.askable import frames
from vxlpro_jax.data import video_decode
from vxlpro_jax.data.image_folder import ArrayFrames
from vxlpro_jax.data.image_transforms import preprocess
from vxlpro_jax.data.video_decode import Video, VideoError
from vxlpro_jax.infer.frame_batches import frame_batches, padded_len

SIZE, BATCH, GROUP = 8, 8, 4


class _Source(ArrayFrames):
    """Frames of which some are lost; counts how far it was read."""

    num_read = 0

    def __init__(self, num_frames: int, lost: tuple[int, ...] = ()):
        super().__init__(frames(num_frames), np.arange(num_frames) * 1.0, float(num_frames))
        self.lost = lost

    def frames(self, indices):
        for index, frame in super().frames(indices):
            self.num_read += 1
            yield index, None if index in self.lost else frame


def batches_of(source: _Source, indices=None, on_damage="skip"):
    chosen = np.arange(len(source.times_s)) if indices is None else np.array(indices)
    return frame_batches(Video(source), chosen, SIZE, BATCH, GROUP, on_damage)


@pytest.mark.parametrize("chunk_len", [1, 3, 8, 64])
@pytest.mark.parametrize(
    "num_frames, lost", [(16, ()), (19, ()), (21, (0, 7, 8, 20)), (3, ()), (9, tuple(range(8, 9)))]
)
def test_every_frame_once_and_in_order(monkeypatch, chunk_len, num_frames, lost):
    monkeypatch.setattr(video_decode, "_MAX_CHUNK_LEN", chunk_len)
    found = list(batches_of(_Source(num_frames, lost)))
    good = [number for number in range(num_frames) if number not in lost]
    assert [place for batch in found for place in batch.positions] == good
    assert [number for batch in found for number in batch.lost] == list(lost)
    assert all(len(batch.positions) == BATCH for batch in found[: len(good) // BATCH])
    expected = preprocess(frames(num_frames), SIZE)
    for batch in found:
        count = len(batch.positions)
        assert len(batch.pixels) == padded_len(count, GROUP, BATCH) and batch.pixels.dtype == np.float32
        np.testing.assert_array_equal(batch.pixels[:count], expected[batch.positions])
        np.testing.assert_array_equal(
            batch.pixels[count:], expected[batch.positions[-1:]].repeat(len(batch.pixels) - count, 0)
        )


def test_places_are_those_asked_for():
    (batch,) = batches_of(_Source(9), indices=[2, 2, 5, 8, 8])
    assert batch.positions.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(batch.pixels[:5], preprocess(frames(9)[[2, 2, 5, 8, 8]], SIZE))


def test_few_sizes():
    assert [padded_len(count, 4, 32) for count in (0, 1, 4, 5, 9, 13, 17, 25, 31, 32)] == [
        0,
        4,
        4,
        8,
        12,
        16,
        24,
        32,
        32,
        32,
    ]


def test_damage_is_raised_where_asked_for():
    with pytest.raises(VideoError) as error, closing(batches_of(_Source(30, (17,)), on_damage="raise")) as found:
        list(found)
    assert error.value.lost == (17,)


@pytest.mark.parametrize("chunk_len", [1, 8, 64])
def test_the_next_batches_are_made_while_one_is_used(monkeypatch, chunk_len):
    """However small the chunks are: two whole batches wait before they are asked for; and no more than that and a few
    chunks are held."""
    monkeypatch.setattr(video_decode, "_MAX_CHUNK_LEN", chunk_len)
    source = _Source(400)
    with closing(batches_of(source)) as found:
        for number in range(1, 4):
            next(found)
            end = time.monotonic() + 30
            while source.num_read < (number + 2) * BATCH and time.monotonic() < end:
                time.sleep(0.001)
            assert (number + 2) * BATCH <= source.num_read <= (number + 2) * BATCH + 4 * chunk_len
