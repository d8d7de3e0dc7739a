"""Which samples make up which batch: a pure function of (seed, step), known before anything is decoded.

Source: SPEC 13 (samples of like length share a batch; batches are shuffled); ours: one plan for any number of workers
and processes, so that resuming needs the step alone.
Differs: an incomplete last batch of a bucket is filled with samples from the same bucket, where the released sampler
drops it: every record is seen in every epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from vxlpro_jax.data.frame_sampling import SamplingConfig, count_frames
from vxlpro_jax.data.image_transforms import choose_canvas
from vxlpro_jax.data.mixture import Mixture
from vxlpro_jax.data.records import Record
from vxlpro_jax.data.video_facts import MediaFacts

_DRAWS = 2**31  # a sample's own random number lies below


@dataclass(frozen=True)
class BucketConfig:
    """One static shape: groups of frames (videos take at most so many, evenly over the whole), tokens of text, and rows
    of a batch over all processes."""

    num_groups: int
    text_len: int
    batch_size: int


class SampleSizes(NamedTuple):
    """What the plan knows of each record, arrays over all records of the mixture.

    is_usable, is_video bool. num_groups int64: of pictures and text (0). num_frames int64, span_s, duration_s float64:
    of videos. end_s float64: the last time that a stamp may say. weight float64: times per epoch.
    """

    is_usable: np.ndarray
    is_video: np.ndarray
    num_groups: np.ndarray
    num_frames: np.ndarray
    span_s: np.ndarray
    duration_s: np.ndarray
    end_s: np.ndarray
    weight: np.ndarray


class Skipped(NamedTuple):
    """A record that is not used, and why. kind: "broken"; "filtered": left out by the mixture's filters; "beyond":
    sound, but more (or less) than this run takes."""

    record: int
    reason: str
    kind: Literal["broken", "filtered", "beyond"]


class BatchDraw(NamedTuple):
    """One batch: the bucket's name, and for each row the number of its record and the sample's random number."""

    bucket: str
    records: np.ndarray
    draws: np.ndarray


class _Epoch(NamedTuple):
    """records, draws: per bucket, rows in order. batches: (bucket number, first row) of each batch, in order."""

    records: list[np.ndarray]
    draws: list[np.ndarray]
    batches: list[tuple[int, int]]


class Limits(NamedTuple):
    """What a run takes: pictures of one record, groups that the largest bucket holds, whether pictures are cut into
    tiles, and whether records without media are of use."""

    max_media: int
    max_groups: int
    is_tiled: bool
    takes_text: bool


def measure(
    mixture: Mixture, facts: Mapping[str, MediaFacts], tile: int, limits: Limits
) -> tuple[SampleSizes, list[Skipped]]:
    """The sizes of all records, and those that cannot or shall not be used. tile: side of a picture's tiles."""
    size = len(mixture)
    sizes = SampleSizes(
        is_usable=np.zeros(size, bool),
        is_video=np.zeros(size, bool),
        num_groups=np.zeros(size, np.int64),
        num_frames=np.zeros(size, np.int64),
        span_s=np.zeros(size),
        duration_s=np.zeros(size),
        end_s=np.zeros(size),
        weight=mixture.weights(),
    )
    skipped = []
    for index, record in mixture.records():
        if not isinstance(record, Record):
            skipped.append(Skipped(index, record.reason, "broken"))
            continue
        found = [facts[path] for path in record.media]
        tiles = sum(_num_tiles(fact, tile, limits.is_tiled) for fact in found) if record.media_kind != "video" else 0
        if fault := _fault_of(record, found):
            skipped.append(Skipped(index, fault, "broken"))
            continue
        if reason := _beyond(record, tiles, limits):
            skipped.append(Skipped(index, reason, "beyond"))
            continue
        if record.media_kind == "video":
            filters = mixture.datasets[mixture.dataset_of(index)].filters
            if filters.refuses(found[0]):
                cuts = f", {found[0].scene_changes} cuts" if filters.needs_cuts else ""
                skipped.append(
                    Skipped(index, f"left out by the filters ({found[0].duration_s:.1f} s{cuts})", "filtered")
                )
                continue
            sizes.is_video[index] = True
            sizes.num_frames[index], sizes.span_s[index], sizes.duration_s[index] = found[0][:3]
            sizes.end_s[index] = found[0].duration_s * (1.0 if record.scale is None else record.scale)
        sizes.num_groups[index] = tiles
        sizes.is_usable[index] = True
    return sizes, skipped


def one_of_each_video(mixture: Mixture, sizes: SampleSizes) -> np.ndarray:
    """Numbers of usable records such that each video file is among them once, whatever many records ask about it."""
    files: dict[str, int] = {}
    for index in np.flatnonzero(sizes.is_usable & sizes.is_video).tolist():
        files.setdefault(mixture.record(index).media[0], index)
    return np.array(list(files.values()), np.int64)


def _fault_of(record: Record, facts: list[MediaFacts]) -> str:
    for path, fact in zip(record.media, facts, strict=True):
        if fact.fault:
            return f"{path}: {fact.fault}"
        if (record.media_kind == "video") == fact.is_picture:
            return f"{path}: a {'picture' if fact.is_picture else 'video'}; the record calls it {record.media_kind}"
    return ""


def _beyond(record: Record, tiles: int, limits: Limits) -> str:
    if not record.media and not limits.takes_text:
        return "neither picture nor video in it; this run needs one"
    if len(record.media) > limits.max_media:
        return f"{len(record.media)} pictures; data.max_media={limits.max_media} is the most that this run takes"
    if tiles > limits.max_groups:
        return f"its pictures have {tiles} tiles; the largest bucket holds {limits.max_groups} groups"
    return ""


def _num_tiles(facts: MediaFacts, tile: int, is_tiled: bool) -> int:
    if not is_tiled or facts.fault:
        return 1
    canvas = choose_canvas(facts.width, facts.height, tile)
    return canvas.width * canvas.height // tile**2


class BatchPlan:
    """plan[step] is the BatchDraw of that step, for ever; epochs follow each other, each shuffled anew."""

    def __init__(
        self,
        sizes: SampleSizes,
        buckets: Mapping[str, BucketConfig],
        sampling: SamplingConfig,
        frames_per_group: int,
        seed: int,
    ):
        """Raises ValueError where no record is usable."""
        self.sizes, self.sampling, self.frames_per_group, self.seed = sizes, sampling, frames_per_group, seed
        self.names = sorted(buckets, key=lambda name: buckets[name].num_groups)
        self.buckets = [buckets[name] for name in self.names]
        self._limits = np.array([bucket.num_groups for bucket in self.buckets])
        if not len(self._limits) or len(set(self._limits.tolist())) < len(self._limits):
            raise ValueError(f"buckets {dict(buckets)}: at least one, each of another num_groups")
        self._usable = np.flatnonzero(sizes.is_usable)
        if not len(self._usable):
            raise ValueError("no record of the mixture is usable (python -m launch.validate says why)")
        self._cached: dict[int, _Epoch] = {}
        self._ends: list[int] = []
        self._totals: list[int] = []  # samples up to the end of each epoch

    def __getitem__(self, step: int) -> BatchDraw:
        epoch, at = self._locate(step)
        number, first = epoch.batches[at]
        rows = slice(first, first + self.buckets[number].batch_size)
        return BatchDraw(self.names[number], epoch.records[number][rows], epoch.draws[number][rows])

    def num_steps(self, epochs: int) -> int:
        """Batches in so many epochs."""
        while len(self._ends) < epochs:
            self._measure_next()
        return self._ends[epochs - 1] if epochs else 0

    def num_samples(self, step: int) -> int:
        """Samples of all batches up to this step, itself included."""
        epoch, at = self._locate(step)
        number = int(np.searchsorted(self._ends, step, side="right"))
        before = self._totals[number - 1] if number else 0
        return before + sum(self.buckets[bucket].batch_size for bucket, _ in epoch.batches[: at + 1])

    def substitute(self, step: int, row: int, attempt: int) -> tuple[int, int]:
        """(record, random number) to take in place of a broken sample: another one of the same bucket."""
        epoch, at = self._locate(step)
        number, _ = epoch.batches[at]
        pick = int(np.random.default_rng([self.seed, step, row, attempt]).integers(len(epoch.records[number])))
        return int(epoch.records[number][pick]), int(epoch.draws[number][pick])

    def _locate(self, step: int) -> tuple[_Epoch, int]:
        while not self._ends or step >= self._ends[-1]:
            self._measure_next()
        epoch = int(np.searchsorted(self._ends, step, side="right"))
        return self._epoch(epoch), step - (self._ends[epoch - 1] if epoch else 0)

    def _measure_next(self) -> None:
        number = len(self._ends)
        batches = self._epoch(number).batches
        self._ends.append((self._ends[-1] if number else 0) + len(batches))
        samples = sum(self.buckets[bucket].batch_size for bucket, _ in batches)
        self._totals.append((self._totals[-1] if number else 0) + samples)

    def _epoch(self, number: int) -> _Epoch:
        if number not in self._cached:
            while len(self._cached) > 1:  # a step that prefetches into the next epoch needs two
                self._cached.pop(min(self._cached))
            self._cached[number] = self._draw_epoch(number)
        return self._cached[number]

    def _draw_epoch(self, number: int) -> _Epoch:
        rng = np.random.default_rng([self.seed, number])
        order = rng.permutation(self._members(number))
        draws = rng.integers(0, _DRAWS, len(order))
        bucket_of = np.searchsorted(self._limits, np.minimum(self.num_groups(order, draws), self._limits[-1]))
        records, own_draws, batches = [], [], []
        for bucket, config in enumerate(self.buckets):
            rows = np.flatnonzero(bucket_of == bucket)
            whole = -(-len(rows) // config.batch_size) * config.batch_size
            rows = np.resize(rows, whole)  # filled from the bucket's beginning
            records.append(order[rows])
            own_draws.append(draws[rows])
            batches += [(bucket, first) for first in range(0, whole, config.batch_size)]
        return _Epoch(records, own_draws, [batches[i] for i in rng.permutation(len(batches))])

    def _members(self, epoch: int) -> np.ndarray:
        """Record numbers of an epoch, each as often as its weight says; fractions take turns."""
        weight = self.sizes.weight[self._usable]
        whole = np.floor(weight).astype(int)
        turn = np.random.default_rng(self.seed).permutation(len(weight)) / len(weight)
        share = weight - whole
        return np.repeat(self._usable, whole + ((turn + epoch * share) % 1.0 < share))

    def num_groups(self, records: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Groups that each sample needs, with the rate that its random number means."""
        sizes = self.sizes
        frames = count_frames(
            self.sampling, sizes.num_frames[records], sizes.span_s[records], sizes.duration_s[records], draws
        )
        return np.where(sizes.is_video[records], -(-frames // self.frames_per_group), sizes.num_groups[records])
