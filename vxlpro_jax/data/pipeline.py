"""The feed of training: whole batches made in worker processes by Grain, in the order of a plan, whatever the workers.

Source: ours (docs/data.md). One element of the Grain dataset is one batch, or this process's rows of it: the work is
spread after the batches are formed, so neither workers nor processes change what a step sees.
Differs: the released trainer loads the next sample in place of a broken one and tells nobody.
"""

import atexit
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
import numpy as np
from absl import flags
from tqdm import tqdm

from vxlpro_jax.data.batch_plan import BatchPlan, BucketConfig, Limits, Skipped, measure
from vxlpro_jax.data.clip_batches import BatchMaker, Broken, Delivery, KeepConfig
from vxlpro_jax.data.frame_sampling import SamplingConfig
from vxlpro_jax.data.mixture import Mixture, load_mixture, survey
from vxlpro_jax.data.samples import ModelShape, PromptKind, SampleMaker, longest_stamp
from vxlpro_jax.data.video_facts import FactStore
from vxlpro_jax.types import ClipBatch
from vxlpro_jax.vocabulary import Tokenize

BROKEN_FILE, FACTS_FILE = "broken.jsonl", "media_facts.jsonl"
_FIRST_SAMPLES = 200  # a share of broken samples is judged as if at least so many had been seen
_LAST_STEP = 2**40
_WATCH = "ends-with-parent"


@dataclass(frozen=True)
class DataConfig:
    """What a run is fed with.

    mixture: YAML file, or one annotation file. root: folder of its relative paths, empty: as the file says. facts: file
        of media facts that launch/validate.py wrote, empty: WORKDIR/media_facts.jsonl.
    prompt: "conversation": whole conversations as the released trainer writes them; "question": one question with its
        answer, exactly as inference asks; "none": pixels alone (ReCoT).
    max_media: pictures of one record at most; records of more are left out, told, and not counted as broken. keep: what
        the selector keeps.
    workers: processes that decode, 0: a thread of this one. buffered_batches: made ahead by each worker; memory grows
        with workers x buffered_batches x bytes of a batch.
    max_broken_share: the run stops when more of the samples than this are broken.
    """

    mixture: str
    root: str
    facts: str
    prompt: PromptKind
    sampling: SamplingConfig
    buckets: dict[str, BucketConfig]
    max_media: int
    keep: KeepConfig
    workers: int
    buffered_batches: int
    max_broken_share: float


class BrokenDataError(RuntimeError):
    """Too many broken samples: how many, and the first reasons."""


def open_feed(
    config: DataConfig,
    shape: ModelShape,
    tokenize: Tokenize | None,
    seed: int,
    workdir: Path,
    process: tuple[int, int] = (0, 1),
) -> "DataFeed":
    """Reads the mixture, looks at media not known yet (headers only), and plans. Decoding begins with the first batch.

    tokenize: of the model; None where config.prompt is "none". workdir gets broken.jsonl and, unless config.facts names
    one, the media facts. process: (number of this process, how many share each batch). Raises MixtureError and
    ValueError for what cannot work, BrokenDataError where too much of the mixture is broken.
    """
    mixture = load_mixture(config.mixture, seed, config.root)
    suffix = f".{process[0]}" if process[1] > 1 else ""
    store = FactStore(Path(config.facts) if config.facts else workdir / f"{FACTS_FILE}{suffix}")
    plan, skipped = make_plan(config, shape, mixture, store, seed)
    end_s = float(plan.sizes.end_s[plan.sizes.is_usable].max())
    stamp_len = longest_stamp(shape.stamps, tokenize, end_s) if tokenize else 0
    maker = SampleMaker(shape, config.sampling, config.prompt, config.keep.high, tokenize, stamp_len)
    make_batch = BatchMaker(mixture, plan, maker, config.keep, config.max_media, process)
    log = BrokenLog(workdir / f"{BROKEN_FILE}{suffix}", config.max_broken_share)
    log.add_skipped(mixture, skipped)
    if beyond := [item for item in skipped if item.kind == "beyond"]:
        place, line = mixture.place(beyond[0].record)
        print(
            f"{config.mixture}: {len(beyond)} of {len(mixture)} records are left out, this run does not take them; the "
            f"first: {place}:{line}: {beyond[0].reason} (python -m launch.validate lists them)",
            file=sys.stderr,
        )
    return DataFeed(make_batch, log, config.workers, config.buffered_batches)


def make_plan(
    config: DataConfig, shape: ModelShape, mixture: Mixture, store: FactStore, seed: int
) -> tuple[BatchPlan, list[Skipped]]:
    """The plan, and the records that it leaves out."""

    def shown(paths: Iterator[str], total: int) -> Iterator[str]:
        return iter(tqdm(paths, total=total, unit="file", desc="media", disable=total < 100, mininterval=5.0))

    facts = survey(mixture, store, num_threads=max(2, config.workers), progress=shown)
    sizes, skipped = measure(mixture, facts, shape.image_size, limits_of(config, shape))
    return BatchPlan(sizes, config.buckets, config.sampling, shape.frames_per_group, seed), skipped


def limits_of(config: DataConfig, shape: ModelShape) -> Limits:
    """What a run with this data takes."""
    has_prompt = config.prompt != "none"
    largest = max((bucket.num_groups for bucket in config.buckets.values()), default=0)
    return Limits(config.max_media, largest, has_prompt and shape.picture_views == "anyres", has_prompt)


class BrokenLog:
    """broken.jsonl: a line per broken sample with step, record, file, line, reason and what took its place.

    What a killed run wrote of steps that are made again is forgotten, so that the file follows from the steps alone.
    """

    def __init__(self, path: Path, max_share: float):
        self.path, self.max_share = path, max_share
        self.num_broken = 0
        self._reasons: list[str] = []

    def add_skipped(self, mixture: Mixture, skipped: list[Skipped]) -> None:
        """Records that are broken; those left out by choice are no faults. Begins the file anew where it has none."""
        faults = [(-1, fault.source, fault.line, fault.reason) for d in mixture.datasets for fault in d.faults]
        faults += [(item.record, *mixture.place(item.record), item.reason) for item in skipped if item.kind == "broken"]
        lines = [{"step": -1, **Broken(*fault, taken=-1)._asdict()} for fault in faults]
        kept = [line for line in self._read() if line["step"] >= 0]
        self._write([*lines, *kept])
        self._reasons = [f"{line['source']}:{line['line']}: {line['reason']}" for line in lines[:3]]
        self._judge(len(faults), max(1, len(mixture)), "records of the mixture")

    def start_at(self, step: int) -> None:
        """From here on batches are made, or made again, from this step."""
        lines = [line for line in self._read() if line["step"] < step]
        self._write(lines)
        self.num_broken = sum(line["step"] >= 0 for line in lines)

    def add(self, delivery: Delivery, num_samples: int) -> None:
        """num_samples: that were to be made up to this step. Raises BrokenDataError when too many were broken."""
        with open(self.path, "a", encoding="utf-8") as file:
            for item in delivery.broken:
                file.write(json.dumps({"step": delivery.step, **item._asdict()}) + "\n")
                self._reasons = [*self._reasons, f"{item.source}:{item.line}: {item.reason}"][-3:]
        self.num_broken += len(delivery.broken)
        self._judge(self.num_broken, max(num_samples, _FIRST_SAMPLES), f"samples up to step {delivery.step}")

    def _judge(self, broken: int, seen: int, what: str) -> None:
        if broken > self.max_share * seen:
            raise BrokenDataError(
                f"{broken} of {seen} {what} are broken, more than data.max_broken_share={self.max_share} allows; "
                f"{self.path} lists them, for example: {'; '.join(self._reasons)}. Mend the data (python -m "
                "launch.validate), or raise the share"
            )

    def _read(self) -> list[dict]:
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def _write(self, lines: list[dict]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f".part-{self.path.name}")
        part.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        part.replace(self.path)


class _WorkerSide:
    """The maker of batches in a worker, which ends with the process that started it, even if that is killed (Grain's
    workers would wait for ever for somebody to take their batch)."""

    def __init__(self, make_batch: BatchMaker):
        self.make_batch = make_batch

    def __call__(self, step: int) -> Delivery:
        parent = multiprocessing.parent_process()
        if parent is not None and not any(thread.name == _WATCH for thread in threading.enumerate()):
            threading.Thread(target=_end_with, args=(parent,), name=_WATCH, daemon=True).start()
        return self.make_batch(step)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _owned(value: Any) -> Any:
    """The same, its arrays copied out of what the workers share: a batch that is kept (a held-out one, or one that a
    device array looks at) would fill /dev/shm, and Grain cannot free it when the interpreter ends."""
    if isinstance(value, np.ndarray):
        return np.array(value) if type(value) is not np.ndarray else value
    if isinstance(value, tuple):
        parts = [_owned(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


class DataFeed:
    """feed(step) -> the batch of that step. Steps in a row stream from the workers; any other starts them anew there.

    num_broken: broken samples so far; rounds_dropped: questions with answers that found no room so far. plan: for the
    number of steps in an epoch, and what a step holds.
    """

    def __init__(self, make_batch: BatchMaker, log: BrokenLog, workers: int, buffered_batches: int):
        self.plan, self.mixture = make_batch.plan, make_batch.mixture
        self.rounds_dropped = 0
        self._make_batch, self._log = make_batch, log
        self._workers, self._buffered = workers, buffered_batches
        self._next = -1
        self._batches: Any = None  # Grain's iterator, while there is one

    @property
    def num_broken(self) -> int:
        return self._log.num_broken

    def num_steps(self, epochs: int) -> int:
        """Batches in so many epochs."""
        return self.plan.num_steps(epochs)

    def __call__(self, step: int) -> ClipBatch:
        if self._batches is None or step != self._next:
            self._restart(step)
        delivery = self._delivered(step)
        self._next = step + 1
        self.rounds_dropped += delivery.rounds_dropped
        if delivery.broken:
            share = len(delivery.batch.valid) / len(self.plan[step].records)
            self._log.add(delivery, round(self.plan.num_samples(step) * share))
        return delivery.batch

    def _delivered(self, step: int) -> Delivery:
        """A worker that the system or a decoder's fault has ended costs time, and a second one at the same step the
        run."""
        try:
            return _owned(Delivery(*next(self._batches)))
        except RuntimeError as error:
            if "terminated" not in str(error):
                raise
            print(f"a worker of the data feed has ended ({error}); step {step} is made again", file=sys.stderr)
        self._restart(step)
        try:
            return _owned(Delivery(*next(self._batches)))
        except RuntimeError as error:
            places = sorted({":".join(map(str, self.mixture.place(int(n)))) for n in self.plan[step].records})
            raise BrokenDataError(
                f"workers of the data feed end at step {step}, twice in a row ({error}): memory, or a file that kills "
                f"its decoder. The step's records, give or take data.buffered_batches={self._buffered} steps: "
                f"{', '.join(places)}"
            ) from error

    def close(self) -> None:
        """Ends the workers."""
        if self._batches is not None:
            self._batches.close()
            atexit.unregister(self.close)
        self._batches = None

    def __enter__(self) -> "DataFeed":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _restart(self, step: int) -> None:
        self.close()
        self._log.start_at(step)
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads its flags; commands without absl never parse any
        steps = grain.MapDataset.range(step, _LAST_STEP).map(_WorkerSide(self._make_batch))
        if self._workers:
            batches = steps.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
            batches = batches.mp_prefetch(grain.MultiprocessingOptions(self._workers, self._buffered))
        else:
            batches = steps.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=self._buffered))
        self._batches = iter(batches)
        atexit.register(self.close)  # Grain's iterators complain loudly when the interpreter takes them apart
