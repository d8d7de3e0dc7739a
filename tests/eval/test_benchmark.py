"""Intervals and rows: against published figures, and by simulation."""

import math

import numpy as np
import pytest

from tests.eval.fake_world import Sums
from vxlpro_jax.eval.benchmark import ACCURACY, Prediction, make_row, mean_interval, share_interval


@pytest.mark.parametrize(
    ("num_right", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_share_interval_equals_published_figures(num_right: int, n: int, low: float, high: float) -> None:
    assert share_interval(num_right, n) == pytest.approx((low, high), abs=6e-5)


def test_share_interval_is_symmetric_and_holds_the_share_at_its_ends() -> None:
    assert share_interval(500, 500)[1] == 1.0 and share_interval(500, 500)[0] == pytest.approx(0.9924, abs=1e-4)
    low, high = share_interval(3, 17)
    assert share_interval(14, 17) == pytest.approx((1 - high, 1 - low))
    for n in (1, 3, 7, 500):
        for right in range(n + 1):
            low, high = share_interval(right, n)
            assert 0 <= low <= right / n <= high <= 1


def test_share_interval_covers_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    for share in (0.1, 0.5, 0.97):
        right = rng.binomial(500, share, 2000)
        covered = [low <= share <= high for low, high in (share_interval(int(r), 500) for r in right)]
        assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize(("num_right", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_share_interval_refuses_what_is_no_share(num_right: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"{num_right} right of {n}"):
        share_interval(num_right, n)


def test_mean_interval() -> None:
    low, high = mean_interval([0.2, 0.4, 0.6, 0.8])
    assert (low + high) / 2 == pytest.approx(0.5)
    assert high - low == pytest.approx(2 * 1.959964 * math.sqrt(0.2 / 3) / 2)
    assert mean_interval([0.3]) == (-math.inf, math.inf)


def test_rows_count_kinds_slices_and_all() -> None:
    benchmark = Sums(num_videos=2, per_video=3)
    predictions = [
        Prediction(sample, "", (), 1, {ACCURACY: float(sample.key != "1/2")}) for sample in benchmark.samples()
    ]
    rows = {(row.metric, row.name): row for row in benchmark.rows(predictions)}
    assert [name for _, name in rows] == ["even", "odd", "q0", "q1", "q2", "all"]
    assert (rows[ACCURACY, "even"].n, rows[ACCURACY, "even"].value) == (4, 0.75)
    assert (rows[ACCURACY, "q2"].n, rows[ACCURACY, "q2"].value) == (2, 0.5)
    assert (rows[ACCURACY, "all"].n, rows[ACCURACY, "all"].value) == (6, pytest.approx(5 / 6))
    assert (rows[ACCURACY, "all"].low, rows[ACCURACY, "all"].high) == share_interval(5, 6)


def test_a_metric_counts_only_where_it_was_measured() -> None:
    benchmark = Sums(num_videos=1, per_video=3)
    samples = benchmark.samples()
    metrics = [{ACCURACY: 1.0}, {ACCURACY: 0.0, "iou": 0.25}, {ACCURACY: 1.0, "iou": 0.75}]
    predictions = [Prediction(s, "", (), 1, m) for s, m in zip(samples, metrics, strict=True)]
    rows = {(row.metric, row.name): row for row in benchmark.rows(predictions)}
    assert (rows["iou", "all"].n, rows["iou", "all"].value, rows["iou", "all"].is_share) == (2, 0.5, False)
    assert ("iou", "q0") not in rows


def test_no_predictions_give_no_rows() -> None:
    assert Sums().rows([]) == []
    with pytest.raises(ValueError, match="row 'x' of 'accuracy' has no values"):
        make_row("x", ACCURACY, [])
