"""Evidence: the best groups as time spans, merged, ranked, at most a fifth of the video, within the video."""

import numpy as np
import pytest

from vxlpro_jax.infer.evidence import MAX_SHARE, Span, evidence_spans


def spans(best: list[float], end_s: float | None = None, step_s: float = 4.0) -> list[Span]:
    """Evidence of groups whose best token has these scores; the other token of each has none."""
    scores = np.stack([np.zeros(len(best)), best], axis=-1)
    times = np.arange(len(best)) * step_s
    return evidence_spans(scores, times, len(best) * step_s if end_s is None else end_s)


def test_best_groups_merged_and_ranked():
    best = [0.0] * 20
    best[3], best[4], best[10], best[15] = 0.7, 0.8, 1.0, 0.6
    assert spans(best) == [Span(40, 44, 1.0), Span(12, 20, 0.8), Span(60, 64, 0.6)]


def test_weak_groups_do_not_count_but_the_best_does():
    assert spans([0.1, 0.4, 0.3] + [0.0] * 17) == [Span(4, 8, 0.4)]
    assert spans([0.0] * 10) == [Span(0, 4, 0.0)]  # nothing stands out


@pytest.mark.parametrize("num_groups", [1, 2, 4, 5, 9, 10, 14, 15, 16, 100, 1000])
@pytest.mark.parametrize("end_share", [0.25, 1.0])
def test_a_fifth_of_the_time_but_one_group_at_least(num_groups, end_share):
    rng = np.random.default_rng(num_groups)
    scores = rng.uniform(0.6, 1, (num_groups, 3))
    times = np.arange(num_groups) * 4.0
    end_s = times[-1] + 4.0 * end_share  # the last group may be short
    found = evidence_spans(scores, times, end_s)
    seconds = sum(span.end_s - span.start_s for span in found)
    assert 0 < seconds <= max(4.0, MAX_SHARE * end_s + 1e-6)
    assert seconds >= min(4.0 * end_share, seconds)
    assert found[0].score == scores.max()
    assert [span.score for span in found] == sorted((span.score for span in found), reverse=True)
    in_time = sorted(found)
    assert all(one.end_s < other.start_s for one, other in zip(in_time, in_time[1:], strict=False))
    if num_groups >= 10 and end_share == 1:
        assert seconds == pytest.approx(4.0 * int(num_groups * MAX_SHARE))  # all scores are high: the room is used


def test_the_last_group_ends_with_the_video():
    assert spans([0.0, 0.0, 1.0], end_s=9.5) == [Span(8, 9.5, 1.0)]
    assert spans([1.0], end_s=0.04) == [Span(0, 0.04, 1.0)]


def test_groups_at_one_time_last_until_the_next_time():
    """A short video looked at more often than it has frames: several groups begin with the same frame."""
    scores = np.array([[0.1], [1.0], [0.2], [0.3], [0.1], [0.0], [0.1], [0.1], [0.0], [0.1]])
    times = np.array([0, 0, 0, 1, 1, 2, 2, 3, 3, 4])
    assert evidence_spans(scores, times, 5.0) == [Span(0, 1, 1.0)]


def test_a_picture_has_one_span_without_length():
    assert evidence_spans(np.array([[0.9], [0.1], [1.0]]), np.zeros(3), 0.0) == [Span(0, 0, 1.0)]


def test_unordered_neighbours_are_one_span():
    best = [0.0] * 30
    best[12], best[11], best[13] = 1.0, 0.9, 0.8
    assert spans(best) == [Span(44, 56, 1.0)]
