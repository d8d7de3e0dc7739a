"""A batch of static shape from the samples that a plan names; broken ones are replaced and reported.

Source: SPEC 9.6 (one keep rate for a whole batch) and 12 (quirk 2); paper 3.3 (5 to 30 % of the tokens are dropped).
Differs: what takes a broken sample's place follows from the seed and is told (the released trainer silently takes the
next sample).
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from vxlpro_jax.data.batch_plan import BatchPlan, BucketConfig
from vxlpro_jax.data.batching import RowShapes, build_rows
from vxlpro_jax.data.conversation import Prompt
from vxlpro_jax.data.mixture import Mixture
from vxlpro_jax.data.samples import SampleMaker, TrainingSample
from vxlpro_jax.types import ClipBatch, RowBatch, Selection, num_kept_in_training

_SUBSTITUTES = 3  # tried for a broken sample, before its place stays empty
_RATE_STREAM = 2**31 + 1  # sets the draws of keep rates apart from all others of a step
_EMPTY = Prompt(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, bool))


@dataclass(frozen=True)
class KeepConfig:
    """The share of visual tokens that the selector keeps, drawn from low to high. The paper drops 5 to 30 % (0.7 to
    0.95), the released code keeps 0.7 to 0.99; 1 to 1 keeps all. per: one rate for the "batch", as released, or one for
    each "row"."""

    low: float
    high: float
    per: Literal["batch", "row"]

    def __post_init__(self):
        if not 0 < self.low <= self.high <= 1:
            raise ValueError(f"keep.low={self.low}, keep.high={self.high}: 0 < low <= high <= 1 is accepted")


class Broken(NamedTuple):
    """A sample that could not be made: record's number, its file and line, why, and what took its place (-1:
    nothing)."""

    record: int
    source: str
    line: int
    reason: str
    taken: int


class Delivery(NamedTuple):
    """A batch on its way to the device, with what happened while it was made."""

    step: int
    batch: ClipBatch
    broken: list[Broken]
    rounds_dropped: int


class BatchMaker:
    """step -> Delivery, for this process's rows of the batch; the same in every worker of every process."""

    def __init__(
        self,
        mixture: Mixture,
        plan: BatchPlan,
        maker: SampleMaker,
        keep: KeepConfig,
        max_media: int,
        process: tuple[int, int],
    ):
        """process: (number of this one, how many there are). Raises ValueError where a batch cannot be shared out."""
        self.mixture, self.plan, self.maker, self.keep = mixture, plan, maker, keep
        self.max_media, self.process = max_media, process
        for name, bucket in zip(plan.names, plan.buckets, strict=True):
            if bucket.batch_size % process[1]:
                raise ValueError(
                    f"buckets.{name}.batch_size={bucket.batch_size}: a multiple of the {process[1]} processes is needed"
                )

    def __call__(self, step: int) -> Delivery:
        draw = self.plan[step]
        bucket = self.plan.buckets[self.plan.names.index(draw.bucket)]
        share = bucket.batch_size // self.process[1]
        rows = range(self.process[0] * share, (self.process[0] + 1) * share)
        shape = self.maker.shape
        side = shape.image_size
        frames = np.zeros((share, bucket.num_groups * shape.frames_per_group, side, side, 3), np.uint8)
        samples: list[TrainingSample | None] = []
        ids, broken = [], []
        for place, row in enumerate(rows):
            first = (int(draw.records[row]), int(draw.draws[row]))
            sample, record, faults = self._make(step, row, first, bucket, frames[place])
            samples.append(sample)
            ids.append(record)
            broken += faults
        batch = ClipBatch(
            frames=frames,
            rows=None,
            selection=None,
            relevant=None,
            has_relevant=None,
            valid=np.array([sample is not None for sample in samples]),
            sample_ids=np.array(ids, np.int32),
            width=None,
        )
        if self.maker.prompt != "none":
            batch = self._with_rows(step, batch, samples, bucket, rows)
        return Delivery(step, batch, broken, sum(sample.rounds_dropped for sample in samples if sample))

    def _make(
        self, step: int, row: int, first: tuple[int, int], bucket: BucketConfig, out: np.ndarray
    ) -> tuple[TrainingSample | None, int, list[Broken]]:
        """(the sample or None, the number of its record, what was broken on the way)."""
        faults: list[tuple[int, str]] = []
        number, draw = first
        for attempt in range(_SUBSTITUTES + 1):
            try:
                sample = self.maker.make(self.mixture.record(number), draw, bucket.text_len, out)
                return sample, number, [self._broken(record, reason, number) for record, reason in faults]
            except (ValueError, OSError) as error:  # VideoError and MalformedRecord are ValueErrors
                faults.append((number, str(error)))
                out[:] = 0
                number, draw = self.plan.substitute(step, row, attempt)
        return None, first[0], [self._broken(record, reason, -1) for record, reason in faults]

    def _broken(self, record: int, reason: str, taken: int) -> Broken:
        return Broken(record, *self.mixture.place(record), reason, taken)

    def _with_rows(
        self, step: int, batch: ClipBatch, samples: list[TrainingSample | None], bucket: BucketConfig, rows: range
    ) -> ClipBatch:
        """The batch with prompts, stamps, and what the selector keeps."""
        shape = self.maker.shape
        prompts = [_EMPTY if sample is None or sample.prompt is None else sample.prompt for sample in samples]
        stamps = [sample.stamps if sample else [] for sample in samples]
        stamp_len = self.maker.stamp_len
        full = bucket.text_len + bucket.num_groups * (stamp_len + shape.tokens_per_group)
        shapes = RowShapes(bucket.text_len, bucket.num_groups, stamp_len, full)
        kept = self._most_kept(bucket.num_groups * shape.tokens_per_group)
        width = min(bucket.text_len + bucket.num_groups * stamp_len + kept, shape.max_context_len)
        relevant = np.zeros((len(samples), bucket.num_groups), bool)
        for place, sample in enumerate(samples):
            if sample is not None:
                relevant[place, : sample.num_groups] = sample.relevant
        row_batch = build_rows(prompts, stamps, shape.tokens_per_group, shape.selector_query, shapes)
        return batch._replace(
            rows=row_batch,
            selection=self._selection(step, row_batch, bucket, rows, width),
            relevant=relevant,
            has_relevant=relevant.any(1),
            width=np.zeros(width, bool),
        )

    def _most_kept(self, num_tokens: int) -> int:
        """No fewer than any media of so many tokens in all can keep: each one that is smaller than the rule's multiple
        may keep up to that multiple, whatever the rate."""
        spared = self.max_media * self.maker.shape.keep_multiple * (1 - self.keep.high)
        return min(num_tokens, math.ceil(num_tokens * self.keep.high + spared))

    def _selection(self, step: int, batch: RowBatch, bucket: BucketConfig, rows: range, width: int) -> Selection:
        shape = self.maker.shape
        rng = np.random.default_rng([self.plan.seed, step, _RATE_STREAM])
        rates = rng.uniform(self.keep.low, self.keep.high, bucket.batch_size if self.keep.per == "row" else 1)
        rates = np.resize(rates, bucket.batch_size)[rows.start : rows.stop]
        num_keep = np.zeros((len(rates), self.max_media), np.int32)
        budget = np.zeros(len(rates), np.int32)
        text_len = (batch.row_source >= 0).sum(1)
        for place, rate in enumerate(rates.tolist()):
            is_real = batch.video_of_group[place] >= 0
            sizes = np.bincount(batch.video_of_group[place][is_real], minlength=self.max_media)
            for medium, size in enumerate((sizes * shape.tokens_per_group).tolist()):
                num_keep[place, medium] = num_kept_in_training(size, rate, shape.keep_multiple)
            video_rows = int(batch.stamp_mask[place].sum()) + int(sizes.sum()) * shape.tokens_per_group
            text = int(text_len[place]) - video_rows
            budget[place] = min(int(np.ceil(video_rows * rate)), width - text)
        return Selection(num_keep, budget)
