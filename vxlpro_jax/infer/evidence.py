"""Where in a video the answer was looked for: time spans from the selector's scores.

Source: ours; paper 3.3 uses the same scores to drop tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MAX_SHARE = 0.2  # of the video's duration, so that evidence points somewhere
MIN_SCORE = 0.5  # half way between the video's least and most relevant token


class Span(NamedTuple):
    """A stretch of a video in seconds, and the score (0 to 1) of its best token."""

    start_s: float
    end_s: float
    score: float


def evidence_spans(scores: np.ndarray, group_times_s: Sequence[float] | np.ndarray, end_s: float) -> list[Span]:
    """The best groups, merged where they touch, best first.

    scores [G, P]: of one video, in [0, 1]. A group counts with its best token; groups of score MIN_SCORE or more are
    taken, best first, while all together last at most MAX_SHARE of the video (one at least). group_times_s [G]: begin
    of each group; it ends where a later one begins, the last at end_s. Of a picture, all of which is at one time, the
    single span has no length.
    """
    begins = np.asarray(group_times_s, np.float64)
    bounds = np.append(begins, max(end_s, begins[-1]))
    ends = bounds[np.minimum(np.searchsorted(bounds, begins, side="right"), len(begins))]
    best = scores.max(-1)
    ranked = np.argsort(-best, kind="stable")
    fits = np.cumsum((ends - begins)[ranked]) <= MAX_SHARE * (bounds[-1] - bounds[0]) + 1e-9
    taken = np.sort(ranked[(fits & (best[ranked] >= MIN_SCORE)) | (ranked == ranked[0])])
    spans: list[Span] = []
    for group in taken:
        span = Span(float(begins[group]), float(ends[group]), float(best[group]))
        if spans and span.start_s <= spans[-1].end_s:
            last = spans.pop()
            span = Span(last.start_s, max(last.end_s, span.end_s), max(last.score, span.score))
        spans.append(span)
    return sorted(spans, key=lambda span: -span.score)
