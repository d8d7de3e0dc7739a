"""How well scores put one kind of thing above another: the area under the ROC curve, with its interval.

Source: ours. The interval is Wilson's with the smaller of the two groups for the number of trials: a cautious one, by
which a perfect order of few videos does not look certain.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vxlpro_jax.eval.benchmark import share_interval


class Area(NamedTuple):
    """auc: share of pairs (upper, lower) in the right order, ties half; low, high: its 95 % interval."""

    auc: float
    low: float
    high: float


def area_under_curve(upper: Sequence[float], lower: Sequence[float]) -> Area:
    """How surely one of `upper` scores above one of `lower`. Raises ValueError where either is empty."""
    if not len(upper) or not len(lower):
        raise ValueError(f"{len(upper)} and {len(lower)} scores: each side needs one at least.")
    high, low = np.asarray(upper, np.float64)[:, None], np.asarray(lower, np.float64)[None, :]
    num = min(len(upper), len(lower))
    auc = float((high > low).mean() + (high == low).mean() / 2)
    return Area(auc, *share_interval(auc * num, num))
