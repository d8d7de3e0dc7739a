"""Where in a video the answer was looked for: time spans from the selector's scores.

Source: ours; paper 3.3 uses the same scores to drop tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MAX_SHARE = 0.2  # of the video's groups, so that evidence points somewhere
MIN_SCORE = 0.5  # half way between the video's least and most relevant token


class Span(NamedTuple):
    """A stretch of a video in seconds, and the score (0 to 1) of its best token."""

    start_s: float
    end_s: float
    score: float


def evidence_spans(scores: np.ndarray, group_times_s: Sequence[float] | np.ndarray, end_s: float) -> list[Span]:
    """The best groups, neighbours merged, best first.

    scores [G, P]: of one video, in [0, 1]. A group counts with its best token; groups of score MIN_SCORE or more are
    taken, best first, up to MAX_SHARE of the video's groups (one at least). group_times_s [G]: begin of each group; the
    last ends at end_s.
    """
    best = scores.max(-1)
    num_taken = max(1, int(len(best) * MAX_SHARE))
    ranked = np.argsort(-best, kind="stable")[:num_taken]
    taken = np.sort(ranked[(best[ranked] >= MIN_SCORE) | (ranked == ranked[0])])
    bounds = [*group_times_s, max(end_s, group_times_s[-1])]
    runs = np.split(taken, np.flatnonzero(np.diff(taken) > 1) + 1)
    spans = [Span(float(bounds[run[0]]), float(bounds[run[-1] + 1]), float(best[run].max())) for run in runs]
    return sorted(spans, key=lambda span: -span.score)
