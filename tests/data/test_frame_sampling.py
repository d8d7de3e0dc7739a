"""Which frames are looked at: nearest real frames, caps, the released rules number by number, short groups.

Source: SPEC.md sections 5 and 13; golden numbers from data_pipeline.json.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from vxlpro_jax.data.frame_sampling import (
    SamplingConfig,
    choose_training_frames,
    count_frames,
    expand_short_group,
    sample_fps,
    sample_released_inference,
    sample_released_training,
    sample_uniform,
)


def test_constant_rate_takes_every_nth() -> None:
    """10 s at 30 frames/s, one per second."""
    choice = sample_fps(np.arange(300) / 30, fps=1.0)
    assert choice.indices.tolist() == list(range(0, 300, 30)) and choice.indices.dtype == np.int64
    assert choice.times_s.tolist() == list(range(10))
    assert choice.spacing_s == pytest.approx(1.0) and choice.duration_s == pytest.approx(300 / 30, abs=1.0)
    assert len(choice) == 10


def test_variable_rate_takes_the_nearest_real_frame() -> None:
    """On a tie the earlier, never one twice, times are the frames' own."""
    times_s = np.array([0.0, 0.9, 1.1, 1.5, 2.5, 7.0])
    choice = sample_fps(times_s, fps=1.0)
    assert choice.indices.tolist() == [0, 1, 3, 4, 5]
    assert choice.times_s.tolist() == times_s[choice.indices].tolist()
    assert choice.spacing_s == pytest.approx(7.0 / 4)
    assert sample_fps([5.0, 5.4, 6.1], 1.0).indices.tolist() == [0, 2], "the grid begins at the first frame"


def test_cap_is_uniform_over_the_whole() -> None:
    """Not the first max_frames; the last frame is among them; the spacing says what really happened."""
    choice = sample_fps(np.arange(3000) / 30, fps=1.0, max_frames=5)
    np.testing.assert_allclose(choice.times_s, np.linspace(0, 2999 / 30, 5), atol=1 / 60 + 1e-9)
    assert choice.indices[-1] == 2999 and choice.spacing_s == pytest.approx(2999 / 30 / 4)
    assert len(sample_fps(np.arange(300) / 30, 1.0, max_frames=10)) == 10, "no cap at exactly max_frames"
    assert len(sample_fps(np.arange(301) / 30, 1.0, max_frames=10)) == 10
    assert sample_fps(np.arange(300) / 30, 1.0, max_frames=1).indices.tolist() == [0]


def test_finer_than_the_video_takes_all() -> None:
    """No frame twice, however high the rate; a cap above the number of frames changes nothing."""
    for fps in (25, 100, 1e9):
        for max_frames in (None, 50, 1000):
            choice = sample_fps(np.arange(50) / 25, fps, max_frames)
            assert choice.indices.tolist() == list(range(50)) and choice.spacing_s == pytest.approx(1 / 25)


def test_single_frame() -> None:
    """Spacing is what was asked for."""
    choice = sample_fps([0.0], fps=2.0, duration_s=0.04)
    assert (choice.indices.tolist(), choice.spacing_s, choice.duration_s) == ([0], 0.5, 0.04)


def test_bad_arguments_are_named() -> None:
    """With value and what is accepted."""
    for fps in (0, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match="fps="):
            sample_fps([0.0, 1.0], fps)
    for times_s in ([], [1.0, 0.0], [0.0, np.nan], [[0.0]]):
        with pytest.raises(ValueError, match="times_s"):
            sample_fps(times_s, 1.0)
    with pytest.raises(ValueError, match="max_frames=0"):
        sample_fps([0.0], 1.0, max_frames=0)
    with pytest.raises(ValueError, match="num_frames=0"):
        sample_released_inference(0, 25.0, 8)


def test_released_rules_number_by_number(golden_dir: Path) -> None:
    """Indices, stamps and durations exactly as recorded."""
    golden = json.loads((golden_dir / "data_pipeline.json").read_text())
    assert golden["train_frame_sampling"] and golden["inference_frame_sampling"]
    for case in golden["train_frame_sampling"]:
        names = ("total_frames", "fps", "video_fps", "frames_upbound", "scale")
        choice = sample_released_training(**{name: case[name] for name in names})
        assert choice.indices.tolist() == case["frame_index"]
        assert choice.times_s.tolist() == case["timestamps"]
        assert choice.duration_s == case["duration"]
    for case in golden["inference_frame_sampling"]:
        choice = sample_released_inference(case["total_frames"], case["fps"], case["max_frames"])
        assert choice.indices.tolist() == case["frame_index"]
        assert choice.times_s.tolist() == case["timestamps"]


def test_released_rules_at_their_edges() -> None:
    """Halves round to even; a step below one frame takes every frame; the bound counts, scale stretches the clock."""
    assert sample_released_training(10, 2.5).indices.tolist() == [0, 2, 4, 6, 8]
    assert sample_released_training(8, 3.5).indices.tolist() == [0, 4]
    assert sample_released_training(3, 0.4).indices.tolist() == [0, 1, 2]
    assert len(sample_released_training(100, 10, frames_upbound=10)) == 10
    assert sample_released_training(100, 10, frames_upbound=9).indices[-1] == 99
    assert sample_released_training(20, 10.0, scale=3).times_s.tolist() == [0.0, 3.0]
    assert sample_released_inference(5, 25.0, 8).indices.tolist() == [0, 0, 1, 1, 2, 2, 3, 4]


def test_short_group_pads_with_its_last_frame() -> None:
    """The default: nothing random, nothing shifted."""
    assert expand_short_group(6, 4).tolist() == [0, 1, 2, 3, 4, 5, 5, 5]
    assert expand_short_group(1, 4).tolist() == [0, 0, 0, 0]
    assert expand_short_group(8, 4).tolist() == list(range(8))
    assert expand_short_group(5, 3).tolist() == [0, 1, 2, 3, 4, 4]


def test_short_group_as_released() -> None:
    """Distinct frames repeated in place, by list or by generator; fewer than a group repeat the last."""
    assert expand_short_group(6, 4, "released", repeated=[4, 1]).tolist() == [0, 1, 1, 2, 3, 4, 4, 5]
    assert expand_short_group(3, 4, "released").tolist() == [0, 1, 2, 2]
    assert expand_short_group(8, 4, "released").tolist() == list(range(8))
    drawn = expand_short_group(9, 4, "released", rng=np.random.default_rng(3))
    assert len(drawn) == 12 and set(drawn.tolist()) == set(range(9)) and np.all(np.diff(drawn) >= 0)
    assert np.max(np.bincount(drawn)) == 2
    again = expand_short_group(9, 4, "released", rng=np.random.default_rng(3))
    assert np.array_equal(drawn, again)
    draws = {tuple(expand_short_group(9, 4, "released", rng=np.random.default_rng(seed))) for seed in range(20)}
    assert len(draws) > 10


@pytest.mark.parametrize("repeated", [[1], [1, 1], [1, 6], [-1, 2], [0.5, 1.0], [0, 1, 2]])
def test_short_group_refuses_a_wrong_list(repeated: list) -> None:
    """Two distinct indices of six frames are needed."""
    with pytest.raises(ValueError, match="repeated="):
        expand_short_group(6, 4, "released", repeated=repeated)


def test_short_group_refuses_chance_without_a_key() -> None:
    """And modes it doesn't know."""
    with pytest.raises(ValueError, match="pass rng"):
        expand_short_group(6, 4, "released")
    with pytest.raises(ValueError, match="'pad_last' or 'released'"):
        expand_short_group(6, 4, "random")


def test_uniform_frames_are_distinct_and_even_over_time() -> None:
    """By time, not by number: a stretch with many frames gets no more of them."""
    assert sample_uniform(np.arange(100) / 25, 5).tolist() == [0, 25, 49, 74, 99]
    assert sample_uniform([0.0, 1.0, 2.0], 20).tolist() == [0, 1, 2]
    assert sample_uniform([3.0], 20).tolist() == [0]
    crowded = np.concatenate([np.arange(0, 1, 0.01), np.arange(1, 11)])
    assert crowded[sample_uniform(crowded, 11)].tolist() == list(range(11))
    with pytest.raises(ValueError, match="num_frames=0"):
        sample_uniform([0.0], 0)


def variable(**changes) -> SamplingConfig:
    options = {"rule": "variable", "short_s": 60.0, "short_fps": (2.0, 3.0), "long_fps": 1.0, "max_frames": 360}
    return SamplingConfig(**{**options, "clip_frames": 0, **changes})


def test_variable_sampling_of_the_paper() -> None:
    """Short videos at 2 or 3 frames/s, both as often; long ones at 1; at most 360; stamps are the frames' times."""
    short_s, long_s = np.arange(25 * 30) / 25, np.arange(25 * 120) / 25
    spacings = [choose_training_frames(variable(), short_s, 30.0, draw).spacing_s for draw in range(1000, 1400)]
    assert {round(value, 1) for value in spacings} == {0.5, 0.3}
    assert 0.4 < np.mean(np.array(spacings) > 0.4) < 0.6
    choice = choose_training_frames(variable(), long_s, 120.0, 7)
    assert len(choice) == 120 and choice.spacing_s == pytest.approx(1.0)
    assert choice.times_s.tolist() == long_s[choice.indices].tolist()
    hour = choose_training_frames(variable(), np.arange(3600.0), 3600.0, 7)
    assert len(hour) == 360 and hour.indices[0] == 0 and hour.indices[-1] == 3599
    fine_tuning = variable(short_fps=(1.0,), max_frames=240)
    assert len(choose_training_frames(fine_tuning, np.arange(240.0), 240.0, 3)) == 240
    assert np.diff(choose_training_frames(fine_tuning, np.arange(480.0), 480.0, 3).times_s).max() <= 3
    scaled = choose_training_frames(variable(), long_s, 120.0, 7, scale=2.5)
    np.testing.assert_allclose(scaled.times_s, choice.times_s * 2.5)
    assert scaled.indices.tolist() == choice.indices.tolist()


def test_released_rule_of_training() -> None:
    released = variable(rule="released", max_frames=10)
    choice = choose_training_frames(released, np.arange(100) / 10, 10.0, 5)
    expected = sample_released_training(100, 10.0, 1.0, 10)
    assert choice.indices.tolist() == expected.indices.tolist() and choice.times_s.tolist() == expected.times_s.tolist()


def test_clips_are_neighbours_from_anywhere() -> None:
    clip = variable(clip_frames=8)
    starts = set()
    for draw in range(200):
        choice = choose_training_frames(clip, np.arange(64.0), 64.0, draw)
        assert len(choice) == 8 and set(np.diff(choice.indices)) == {1}
        starts.add(int(choice.indices[0]))
    assert min(starts) == 0 and max(starts) == 56 and len(starts) > 40
    assert len(choose_training_frames(clip, np.arange(5.0), 5.0, 1)) <= 8


@pytest.mark.parametrize("rule", ["variable", "released"])
def test_planned_count_is_never_below_the_chosen(rule) -> None:
    """The plan's bucket is decided by headers; what is chosen must fit it. Random clocks, rates and lengths."""
    rng = np.random.default_rng(0)
    exact = 0
    for _ in range(300):
        num_frames = int(rng.integers(1, 400))
        times = np.cumsum(rng.uniform(0.01, 0.3, num_frames)) if rng.random() < 0.5 else np.arange(num_frames) / 25
        times = times - times[0]
        duration = float(times[-1] + rng.uniform(0.01, 0.3))
        config = variable(rule=rule, max_frames=int(rng.integers(1, 50)), clip_frames=int(rng.choice([0, 8])))
        draw = int(rng.integers(0, 2**31))
        args = (np.array([num_frames]), np.array([times[-1]]), np.array([duration]), np.array([draw]))
        planned = int(count_frames(config, *args)[0])
        chosen = len(choose_training_frames(config, times, duration, draw))
        assert chosen <= planned
        exact += chosen == planned
    assert exact > 200, "and it is no wild guess"


def test_impossible_sampling_is_refused() -> None:
    for changes, said in (
        ({"short_fps": ()}, "short_fps"),
        ({"short_fps": (0.0,)}, "short_fps"),
        ({"long_fps": -1.0}, "long_fps"),
        ({"max_frames": 0}, "max_frames"),
        ({"clip_frames": -1}, "clip_frames"),
    ):
        with pytest.raises(ValueError, match=said):
            variable(**changes)
