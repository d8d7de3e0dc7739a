"""Still, slow and busy videos are what they are called, whatever the camera adds, and a set may be made again."""

from pathlib import Path

import numpy as np
import pytest

from vxlpro_jax.data.synthetic_redundancy import (
    CHANGING_LIGHT,
    MOTIONS,
    draw_video,
    redundant_frames,
    write_redundancy_set,
)


def mean_change(motion: str, index: int) -> float:
    """Grey levels between frames half a video apart."""
    frames = redundant_frames(draw_video(5, index, motion, 40), np.array([0, 20]), (32, 32)).astype(float)  # type: ignore[arg-type]
    return float(np.abs(frames[1] - frames[0]).mean())


def test_each_motion_changes_as_much_as_it_should() -> None:
    still, slow, busy = ([mean_change(motion, index) for index in range(8)] for motion in MOTIONS)
    assert max(still) < min(busy) and np.median(still) < np.median(slow) < np.median(busy)
    assert min(still) > 0  # no still video is one picture over and over: the camera has noise


def test_a_video_depends_on_its_seed_index_and_motion_alone() -> None:
    first = redundant_frames(draw_video(5, 1, "slow"), np.arange(6), (32, 32))
    assert np.array_equal(first[4:], redundant_frames(draw_video(5, 1, "slow"), np.arange(4, 6), (32, 32)))
    assert not np.array_equal(first, redundant_frames(draw_video(5, 2, "slow"), np.arange(6), (32, 32)))
    assert draw_video(5, 1, "still", most_drift=CHANGING_LIGHT).drift > draw_video(5, 1, "still").drift
    with pytest.raises(ValueError, match="motion='fast': one of still, slow, busy"):
        draw_video(5, 1, "fast")  # type: ignore[arg-type]


def test_a_set_is_the_same_again_and_what_is_there_is_kept(tmp_path: Path) -> None:
    files = list(write_redundancy_set(tmp_path / "a", 5, 2, 8))
    assert [file.motion for file in files] == [*MOTIONS, *MOTIONS]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(file.path.name for file in files)
    kept = files[0].path.stat().st_mtime_ns
    again = list(write_redundancy_set(tmp_path / "a", 5, 1, 8))
    assert again == files[:3] and files[0].path.stat().st_mtime_ns == kept
    other = list(write_redundancy_set(tmp_path / "b", 5, 1, 8))
    assert [file.path.read_bytes() for file in other] == [file.path.read_bytes() for file in files[:3]]
