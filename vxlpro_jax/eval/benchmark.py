"""What every benchmark speaks: sample, prediction, row of the result table, and the class that a benchmark fills in.

Source: ours; Wilson, JASA 22 (1927), for intervals of shares.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np

ACCURACY = "accuracy"
CONFIDENCE = 0.95
ALL = "all"
STEP = " > "


@dataclass(frozen=True)
class Sample:
    """One question as the model gets it.

    key: unique in the benchmark and stable between runs. video: samples that share it are asked on one index. kind: the
    row of the table. truth: the right answer, in whatever form the benchmark's `score` reads. slices: further rows that
    it counts in. interval_s: (start, end) of what answers it, in seconds of the video, where known. then: further
    questions, each asked when the one before is answered; "{answer}" in it stands for that answer. All answers, in
    order, with STEP between them, are then what is scored.
    """

    key: str
    video: str
    kind: str
    question: str
    truth: str
    slices: tuple[str, ...] = ()
    interval_s: tuple[float, float] | None = None
    then: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """What the model answered to a sample.

    evidence: (start_s, end_s, score), best first. metrics: what `score` said of it. prompt: as the model read it; kept
    of the first sample only.
    """

    sample: Sample
    answer: str
    evidence: tuple[tuple[float, float, float], ...]
    num_tokens: int
    metrics: Mapping[str, float]
    prompt: str = ""


@dataclass(frozen=True)
class VideoSource:
    """What is indexed: frames uint8 [T, H, W, 3] with times_s [T] where given, else a file or folder at `path`.

    is_temporary: the file at `path` was written for this run and may be deleted once the video is indexed. make_index:
    for a benchmark that reuses what was indexed before: makes the index, given the model's `index` with the rate and
    the limit of frames filled in.
    """

    path: Path | None = None
    frames: np.ndarray | None = None
    times_s: np.ndarray | None = None
    is_temporary: bool = False
    make_index: Callable[[Callable[..., Any]], Any] | None = None


class GroupTimes(Protocol):
    """The part of a video index that marking may look at: begin of each group [G], and where the last one ends."""

    @property
    def group_times_s(self) -> np.ndarray: ...

    @property
    def end_s(self) -> float: ...


@dataclass(frozen=True)
class Row:
    """One line of the result table: `metric` over the n predictions of `name`, with its 95 % interval.

    is_share: the metric is a share of yes or no. chance: what guessing gives, where that is known.
    """

    name: str
    metric: str
    n: int
    value: float
    low: float
    high: float
    is_share: bool
    chance: float | None = None


@dataclass(frozen=True)
class Grid:
    """Shares of right answers: cells[row][column] is (right, n). row_name, column_name: what is varied."""

    row_name: str
    rows: tuple[str, ...]
    column_name: str
    columns: tuple[str, ...]
    cells: tuple[tuple[tuple[int, int], ...], ...]


class Benchmark(ABC):
    """A set of videos with questions whose answers can be marked; eval/harness.py runs it.

    name: of the benchmark and its variant. settings: whatever else decides what is asked (seed, split, ...), fit for
    JSON; predictions made under other settings are not mixed with these.
    """

    name: str
    settings: Mapping[str, object]

    @abstractmethod
    def samples(self) -> Sequence[Sample]:
        """All samples, always in the same order, those of one video together."""

    @abstractmethod
    def open_video(self, video: str, folder: Path) -> VideoSource:
        """Find or make a video; called in a background thread. `folder` exists and is for files that have to be
        written.

        Raises VideoError or OSError for a video that cannot be had: its samples are then skipped and counted.
        """

    @abstractmethod
    def score(
        self, sample: Sample, answer: str, evidence: Sequence[Sequence[float]], index: GroupTimes
    ) -> dict[str, float]:
        """Metrics of one answer; ACCURACY among them is 0 or 1, and absent where no answer is the right one."""

    def score_kept(self, sample: Sample, kept_groups: Sequence[int]) -> dict[str, float]:
        """Metrics of what the selector left of the video; kept_groups: groups of which the LLM read anything."""
        return {}

    def grid(self, predictions: Sequence[Prediction]) -> "Grid | None":
        """Right answers over two things that were varied, for a picture; None where there are none."""
        return None

    def remarks(self, predictions: Sequence[Prediction]) -> Sequence[str]:
        """What a reader should know besides the table, a sentence each."""
        return ()

    def chance(self, kind: str, predictions: Sequence[Prediction]) -> float | None:
        """Share that a guesser would get right among the predictions of a kind; None where that is not known."""
        return None

    def rows(self, predictions: Sequence[Prediction]) -> list[Row]:
        """The result table: for every metric its kinds, its slices, and all questions together."""
        metrics = list(dict.fromkeys(name for prediction in predictions for name in prediction.metrics))
        kinds = list(dict.fromkeys(prediction.sample.kind for prediction in predictions))
        slices = sorted({name for prediction in predictions for name in prediction.sample.slices})
        rows = []
        for metric in metrics:
            marked = [prediction for prediction in predictions if metric in prediction.metrics]
            for name in [*kinds, *slices, *([ALL] if len(kinds) > 1 else [])]:
                chosen = [p for p in marked if name in (ALL, p.sample.kind, *p.sample.slices)]
                if chosen:
                    is_kind = metric == ACCURACY and name in kinds
                    chance = self.chance(name, chosen) if is_kind else None
                    rows.append(make_row(name, metric, [p.metrics[metric] for p in chosen], chance))
        return rows


def make_row(name: str, metric: str, values: Iterable[float], chance: float | None = None) -> Row:
    """A row from its values: a Wilson interval where all are 0 or 1, else that of a mean. Raises ValueError without
    values."""
    values = list(values)
    if not values:
        raise ValueError(f"row {name!r} of {metric!r} has no values.")
    is_share = all(value in (0, 1) for value in values)
    low, high = share_interval(sum(values), len(values)) if is_share else mean_interval(values)
    return Row(name, metric, len(values), sum(values) / len(values), low, high, is_share, chance)


def share_interval(num_right: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's interval of a share, (low, high) in 0..1. Raises ValueError for n below 1 or num_right outside 0..n."""
    if n < 1 or not 0 <= num_right <= n:
        raise ValueError(f"{num_right} right of {n}: at least one question, and 0 .. n right, are accepted.")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = num_right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the bound is exact; rounding must not put the share itself outside.
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Normal interval of a mean, (low, high); of a single value (-inf, inf)."""
    if len(values) < 2:
        return -math.inf, math.inf
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * deviation / math.sqrt(len(values))
    return mean - half, mean + half
