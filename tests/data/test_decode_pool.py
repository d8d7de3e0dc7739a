"""Any number of workers hands over the same, and a video that kills its reader costs itself alone."""

import os
import time
from pathlib import Path

import pytest

from vxlpro_jax.data.decode_pool import CRASHED, read_in_order
from vxlpro_jax.data.video_records import VideoError

PATHS = [f"{number}.mp4" for number in range(12)]


def length_of(path: str) -> int:
    """Stands for a decoder: the later videos are ready first, one is damaged."""
    time.sleep(0.01 * (len(PATHS) - int(Path(path).stem)) / len(PATHS))
    if path == "3.mp4":
        raise VideoError(path, "damaged")
    return int(Path(path).stem) ** 2


def dying(path: str) -> int:
    if path in ("4.mp4", "5.mp4"):
        os._exit(139)
    return length_of(path)


def said(results: list) -> list:
    return [(path, str(result) if isinstance(result, VideoError) else result) for path, result in results]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_order_is_that_of_the_paths(workers: int) -> None:
    expected = [(p, "3.mp4: damaged" if p == "3.mp4" else int(Path(p).stem) ** 2) for p in PATHS]
    assert said(list(read_in_order(PATHS, length_of, workers))) == expected


def test_videos_that_kill_their_readers_are_broken_and_the_rest_is_read() -> None:
    expected: dict[str, object] = dict(said(list(read_in_order(PATHS, length_of, 0))))
    expected |= {path: f"{path}: {CRASHED}" for path in ("4.mp4", "5.mp4")}
    assert said(list(read_in_order(PATHS, dying, 2))) == list(expected.items())


def test_what_is_no_fault_of_a_video_is_raised() -> None:
    for workers in (0, 1):
        with pytest.raises(ValueError, match="invalid literal"):
            list(read_in_order(["x.mp4"], length_of, workers))
