"""The area is the share of pairs in order, and its interval is never narrower than so few videos allow."""

import numpy as np
import pytest

from vxlpro_jax.eval.ranking import area_under_curve


def test_the_area_is_the_share_of_pairs_in_order() -> None:
    assert area_under_curve([3, 4], [1, 2]).auc == 1
    assert area_under_curve([1, 2], [3, 4]).auc == 0
    assert area_under_curve([1, 3], [1, 2]).auc == (0.5 + 0 + 1 + 1) / 4
    rng = np.random.default_rng(0)
    same = area_under_curve(rng.random(400), rng.random(400))
    assert same.low < 0.5 < same.high and same.high - same.low < 0.11


def test_a_perfect_order_of_few_is_not_certain() -> None:
    few, many = (area_under_curve(np.arange(n) + n, np.arange(n)) for n in (5, 500))
    assert few.auc == many.auc == 1 and few.low < 0.6 and many.low > 0.99
    assert area_under_curve(np.arange(500) + 500, np.arange(5)) == few
    with pytest.raises(ValueError, match="0 and 1 scores"):
        area_under_curve([], [1])
