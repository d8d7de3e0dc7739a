"""Haystacks: a shorter one begins a longer one, and what is encoded alone is what a reader of the file finds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vxlpro_jax.data.synthetic import draw_event
from vxlpro_jax.data.synthetic_haystack import Haystack, HaystackSettings, count_file_frames, first_frame
from vxlpro_jax.data.video_decode import open_video

SETTINGS = HaystackSettings(
    file="", num_haystacks=1, num_frames=64, mover_share=0.4, size=(48, 64), fps=2.0, frames_per_group=4
)


def needle(haystack: Haystack, start: int, num_frames: int):
    fps = haystack.settings.fps
    return draw_event(np.random.default_rng(1), "shape_card", "star", "red", start / fps, (start + num_frames) / fps)


def read(path: Path) -> np.ndarray:
    with open_video(path) as video:
        return np.asarray(video.read(range(video.num_frames)))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 frames in 32 seconds, of another size."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    Haystack(replace(SETTINGS, mover_share=0.0, size=(72, 128)), 9, 0).write(path, 64)
    return path


def test_a_shorter_haystack_begins_a_longer_one(tmp_path: Path) -> None:
    longer, shorter = Haystack(SETTINGS, 5, 0), Haystack(replace(SETTINGS, num_frames=32), 5, 0)
    longer.write(tmp_path / "long.mp4", 64)
    shorter.write(tmp_path / "short.mp4", 32)
    long, short = read(tmp_path / "long.mp4"), read(tmp_path / "short.mp4")
    assert len(long) == 64 and (long[:32] == short).all()
    assert {group: event for group, event in longer.movers.items() if group < 8} == shorter.movers
    other = Haystack(SETTINGS, 5, 1)
    other.write(tmp_path / "other.mp4", 32)
    assert (read(tmp_path / "other.mp4") != short).any()


@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.parametrize(("start", "num_frames", "groups"), [(14, 6, [3, 4]), (0, 1, [0]), (63, 1, [15])])
def test_touched_groups_are_those_of_the_whole_file(tmp_path, film, from_file, start, num_frames, groups) -> None:
    haystack = Haystack(replace(SETTINGS, file=str(film) if from_file else ""), 5, 0)
    event = needle(haystack, start, num_frames)
    haystack.write(tmp_path / "empty.mp4", 64)
    haystack.write(tmp_path / "needle.mp4", 64, [event])
    empty, whole = read(tmp_path / "empty.mp4"), read(tmp_path / "needle.mp4")
    assert haystack.groups_of([event]) == groups
    numbers = np.concatenate([np.arange(4 * group, 4 * group + 4) for group in groups])
    assert (haystack.touched([event]) == whole[numbers]).all()
    others = np.setdiff1d(np.arange(64), numbers)
    assert (whole[others] == empty[others]).all()
    shown = np.arange(start, start + num_frames)
    assert (np.abs(whole[shown].astype(int) - empty[shown]).mean((1, 2, 3)) > 5).all()


def test_movers_fill_their_groups_and_leave_the_needles_alone() -> None:
    haystack = Haystack(replace(SETTINGS, num_frames=4000, mover_share=0.1), 5, 0)
    assert 70 < len(haystack.movers) < 130
    for group, event in haystack.movers.items():
        assert haystack.groups_of([event]) == [group]
        assert event.glyph not in haystack.needle_shapes and event.colour not in haystack.needle_colours
    group = next(iter(haystack.movers))
    quiet = Haystack(replace(haystack.settings, mover_share=0.0), 5, 0)
    event = needle(haystack, 4 * group + 1, 2)
    assert (haystack.touched([event]) == quiet.touched([event])).all()


def test_a_file_gives_its_frames(film: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, file=str(film), mover_share=0.0, size=(72, 128))
    assert count_file_frames(settings) == 64 and count_file_frames(replace(settings, fps=1.0)) == 32
    Haystack(settings, 5, 0).write(tmp_path / "copy.mp4", 64)
    assert np.abs(read(tmp_path / "copy.mp4").astype(int) - read(film)).mean() < 3


@pytest.mark.parametrize(
    ("num_frames", "depth", "needle_len", "phase", "expected"),
    [(64, 0.0, 1, 0, 0), (64, 0.0, 1, 3, 3), (64, 1.0, 1, 3, 63), (64, 1.0, 6, 3, 55), (64, 0.5, 4, 0, 32)],
)
def test_depth_and_phase_say_where_a_needle_begins(num_frames, depth, needle_len, phase, expected) -> None:
    assert first_frame(num_frames, depth, needle_len, phase, 4) == expected


def test_a_needle_must_fit() -> None:
    with pytest.raises(ValueError, match="needle of 6 frames from place 3 on does not fit 8 frames"):
        first_frame(8, 0.5, 6, 3, 4)
