"""The loop: batches from a thread, updates, a log, evaluation, checkpoints, and going on where a run was cut off.

Source: ours. Batch i is a function of (seed, i) and what is random in a step follows from (seed, step), so a resumed
run does what an uninterrupted one would have done, to the bit.
"""

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from tqdm import tqdm

from vxlpro_jax.checkpoint import RunCheckpoints
from vxlpro_jax.parallel.mesh import device_memory, process_memory
from vxlpro_jax.train.run_log import RunLog, read_log
from vxlpro_jax.train.state import Params, TrainState
from vxlpro_jax.train.step import TrainStep

CHECKPOINT_FOLDER = "checkpoints"
SAMPLES_TOLD = 64


@dataclass(frozen=True)
class LoopConfig:
    """How often, in steps, a line is logged, the model is evaluated and the state is saved; micro-batches made ahead.

    keep_last, keep_best: checkpoints that stay; best_metric names a value of the evaluation and best_is says which way
    is better ("" = none is best). max_skipped_in_row: steps that are not finite, one after the other, that end the run
    (all of them end a run that has fewer).
    """

    log_every: int
    eval_every: int
    save_every: int
    prefetch: int
    keep_last: int = 2
    keep_best: int = 1
    best_metric: str = ""
    best_is: Literal["lowest", "highest"] = "lowest"
    max_skipped_in_row: int = 10

    def __post_init__(self):
        from_one = ("log_every", "eval_every", "save_every", "keep_last", "max_skipped_in_row")
        for name, least in (*((name, 1) for name in from_one), ("prefetch", 0), ("keep_best", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"config.loop.{name}={getattr(self, name)}: at least {least} is accepted.")


class StoppedError(RuntimeError):
    """The run was asked to stop (SIGTERM or Ctrl-C); its state is saved."""


class NotFiniteError(ValueError):
    """Losses or gradients were not finite too often in a row."""


@dataclass
class Watch:
    """What is worth telling beside the metrics, handed in by whoever knows.

    rates: (updates made) -> learning rate by part. work: (micro-batches) -> samples, frames, tokens and flops in them.
    peak_flops: per second of all devices that the work is done by; 0 where unknown. name_sample: (id) -> what tells a
    person which sample that is. counts: more for each line of the log.
    """

    rates: Callable[[int], dict[str, float]] = lambda updates: {}
    work: Callable[[Sequence[Any]], dict[str, float]] = lambda batches: {}
    peak_flops: float = 0.0
    name_sample: Callable[[int], str] = str
    counts: Callable[[], dict[str, float]] = lambda: {}


@dataclass
class _Window:
    """What was seen since the last line of the log. aside_s: what evaluations and saves took of the time."""

    seen: list[dict[str, Any]] = field(default_factory=list)
    work: dict[str, float] = field(default_factory=dict)
    waited_s: float = 0.0
    aside_s: float = 0.0
    started_s: float = field(default_factory=time.perf_counter)
    steps: int = 0

    def line(self, watch: Watch) -> dict[str, Any]:
        """Means of what the steps told, and what was done in a second."""
        finite = [line for line in self.seen if np.isfinite(line["loss"]) and np.isfinite(line["gradient_norm"])]
        means = {name: float(np.mean([line[name] for line in finite or self.seen])) for name in self.seen[-1]}
        means |= {name: int(self.seen[-1][name]) for name in ("skipped", "skipped_in_row")}
        seconds = max(time.perf_counter() - self.started_s - self.aside_s, 1e-9)
        speeds = {f"{name}_per_s": value / seconds for name, value in self.work.items()}
        if "flops_per_s" in speeds:
            speeds["tflops_per_s"] = speeds.pop("flops_per_s") / 1e12
            if watch.peak_flops:
                speeds["mfu"] = speeds["tflops_per_s"] * 1e12 / watch.peak_flops
        speeds["steps_per_s"] = self.steps / seconds
        return {
            **means,
            **{name: float(f"{value:.5g}") for name, value in speeds.items()},
            "wait_share": round(self.waited_s / seconds, 4),
        }


def run_loop(
    state: TrainState,
    train_step: TrainStep,
    make_batch: Callable[[int], Any],
    num_steps: int,
    config: LoopConfig,
    workdir: Path,
    evaluate: Callable[[Params, int], dict[str, Any]],
    *,
    micro_batches: int = 1,
    watch: Watch | None = None,
) -> TrainState:
    """Train from the state's step to num_steps; a checkpoint found in workdir is gone on from.

    workdir gets metrics.jsonl and tensorboard/ (a line per log_every steps and per evaluation) and checkpoints/.

    Args:
        make_batch: number of a micro-batch -> it; step s takes s * micro_batches and those that follow.
        evaluate: (params, step) -> what held-out data says.

    Raises:
        StoppedError: after SIGTERM or SIGINT, once the state is saved.
        NotFiniteError: max_skipped_in_row steps in a row were not finite; names the samples that they saw.
        CheckpointError: the state cannot be saved, or what is there is another run's.
        Whatever make_batch raised.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    qualities: dict[int, float] = {}
    folder = workdir / CHECKPOINT_FOLDER
    checkpoints = RunCheckpoints(folder, config.keep_last, config.keep_best, qualities.get)
    state, record = resume(state, checkpoints)
    runner = _Runner(state, train_step, config, workdir, evaluate, watch or Watch(), checkpoints, qualities)
    try:
        runner.window.seen = record.get("window", [])
        with stop_requests() as stop:
            runner.run(make_batch, num_steps, micro_batches, stop)
    finally:
        runner.log.close()
        checkpoints.close()  # a save that is under way is brought to its end
    return runner.state


class _Runner:
    """The loop's state: what run_loop was given, and what has gathered since the last line of the log.

    qualities: by step, what checkpoints are kept for; the log remembers them from start to start.
    """

    def __init__(self, state, train_step, config: LoopConfig, workdir: Path, evaluate, watch, checkpoints, qualities):
        self.state, self.train_step, self.config, self.evaluate = state, train_step, config, evaluate
        self.watch, self.checkpoints, self.qualities = watch, checkpoints, qualities
        self.window = _Window()
        self.log = RunLog(workdir, int(state.step))
        self.workdir = workdir
        self.recent: deque[tuple[int, list[Any]]] = deque(maxlen=config.max_skipped_in_row + 1)

    def run(self, make_batch, num_steps: int, micro_batches: int, stop: threading.Event) -> None:
        first = int(self.state.step)
        self.judge_at_start(first, num_steps)
        self.most_skipped = min(self.config.max_skipped_in_row, num_steps)
        numbers = range(first * micro_batches, num_steps * micro_batches)
        parts = prefetched(make_batch, numbers, self.config.prefetch)
        began = time.perf_counter()
        self.window.started_s, self.window.aside_s = began, 0.0
        with tqdm(initial=first, total=num_steps, unit="step", desc=self.workdir.name, mininterval=5.0) as progress:
            for done in range(first + 1, num_steps + 1):
                asked = time.perf_counter()
                batches = [next(parts)[1] for _ in range(micro_batches)]
                self.window.waited_s += time.perf_counter() - asked
                self.update(done, batches)
                del batches  # before the next ones are gathered
                progress.update()
                last, stopped = done == num_steps, stop.is_set()
                if done % self.config.log_every == 0 or last:
                    line = self.tell(done, time.perf_counter() - began)
                    progress.set_postfix({"loss": f"{line['loss']:.4g}", "wait": line["wait_share"]}, refresh=False)
                is_saved = done % self.config.save_every == 0 or last or stopped
                is_judged = done % self.config.eval_every == 0 or last
                if is_saved or is_judged:
                    self.settle(done)
                if is_saved:
                    self.save(done)
                if stopped and not last:
                    self.checkpoints.wait()
                    raise StoppedError(
                        f"stopped after step {done} of {num_steps}; the same command goes on from there."
                    )
                if is_judged:
                    with ExitStack() as when_it_fails:
                        if not is_saved:
                            when_it_fails.callback(self.save, done)
                        self.judge(done)
                        when_it_fails.pop_all()

    def update(self, done: int, batches: list[Any]) -> None:
        """One step; the one before is looked at only now, so that the device need not wait for us."""
        self.state, metrics = self.train_step(self.state, batches)
        self.recent.append((done, [batch.sample_ids for batch in batches if hasattr(batch, "sample_ids")]))
        for name, value in self.watch.work(batches).items():
            self.window.work[name] = self.window.work.get(name, 0.0) + value
        self.window.seen.append(metrics)
        self.window.steps += 1
        if len(self.window.seen) > 1:
            self.window.seen[-2] = _on_host(self.window.seen[-2])
            if len(self.recent) > 1:  # else it is a step of before this start
                self.refuse_not_finite(done - 1, self.window.seen[-2])

    def tell(self, done: int, seconds: float) -> dict[str, Any]:
        """Log what was seen since the last time, and look at the last step too. Returns the line."""
        line = self.window.line(self.watch)
        rates = self.watch.rates(done - line["skipped"]) | self.watch.counts()
        memory = {"memory_gib": device_memory(), "host_gib": process_memory()}
        self.log.write(done, {"seconds": round(seconds, 1), **line, **rates, **memory})
        self.refuse_not_finite(done, self.window.seen[-1])
        self.window = _Window()
        return line

    def refuse_not_finite(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Raises NotFiniteError, before anything of such a state is saved."""
        in_row = int(metrics["skipped_in_row"])
        if in_row < self.most_skipped:
            return
        steps = [(number, batches) for number, batches in self.recent if step - in_row < number <= step]
        ids = sorted({number for _, batches in steps for batch in batches for number in _ids_of(batch)})
        names = ", ".join(map(self.watch.name_sample, ids[:SAMPLES_TOLD]))
        more = f" and {len(ids) - SAMPLES_TOLD} more" if len(ids) > SAMPLES_TOLD else ""
        saw = f"; steps {steps[0][0]} to {step} saw the samples {names}{more}" if ids else f", up to step {step}"
        raise NotFiniteError(
            f"loss or gradient was not finite in {in_row} steps in a row{saw}. None of these steps was made. Look at "
            "the samples, or lower optimizer.peak_rate; loop.max_skipped_in_row says how many are borne."
        )

    def judge_at_start(self, step: int, num_steps: int) -> None:
        """What an earlier start saved and did not come to judge is judged now; and that the evaluation tells
        loop.best_metric shows before the first step."""
        metric, lines = self.config.best_metric, read_log(self.workdir)
        told = [(line["step"], line.get(f"eval_{metric}")) for line in lines]
        self.qualities |= {number: self.quality(x) for number, x in told if isinstance(x, int | float)}
        is_judged = any(line["step"] == step and "loss" not in line for line in lines)
        is_due = step > 0 and (step % self.config.eval_every == 0 or step == num_steps)
        if (is_due and not is_judged) or (metric and not self.qualities):
            self.judge(step)

    def judge(self, done: int) -> None:
        """Evaluate and log; the quality is what the best checkpoint is kept by."""
        with self.aside():
            found = self.evaluate(self.state.params, done)
        self.log.write(done, {f"eval_{name}": value for name, value in found.items()})
        for value in found.values():
            if isinstance(value, str):
                tqdm.write(value)
        metric = self.config.best_metric
        if not metric:
            return
        numbers = sorted(name for name, value in found.items() if not isinstance(value, str))
        if metric not in numbers:
            raise ValueError(f"config.loop.best_metric={metric!r}: the evaluation tells {numbers}.")
        if np.isfinite(found[metric]):
            self.qualities[done] = self.quality(found[metric])

    def quality(self, value: float) -> float:
        return float(value) if self.config.best_is == "highest" else -float(value)

    def save(self, done: int) -> None:
        with self.aside():
            record = {"step": done, "window": list(self.window.seen)}  # its own list: it is written while we go on
            self.checkpoints.save(done, as_tree(self.state), record)

    def settle(self, done: int) -> None:
        """Wait for the last step and look at it, unless `tell` has."""
        if self.window.seen:
            self.window.seen = [_on_host(line) for line in self.window.seen]
            self.refuse_not_finite(done, self.window.seen[-1])

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Time that is not the steps'."""
        started = time.perf_counter()
        yield
        self.window.aside_s += time.perf_counter() - started


def _ids_of(sample_ids: Any) -> list[int]:
    """Those of this process."""
    is_spread = isinstance(sample_ids, jax.Array)
    parts = [shard.data for shard in sample_ids.addressable_shards] if is_spread else [sample_ids]
    return np.concatenate([np.asarray(part).reshape(-1) for part in parts]).tolist()


def _on_host(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that SIGTERM or SIGINT sets while the context lasts; a second signal does what it did before."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(number, frame):
        stop.set()
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def prefetched(make_batch: Callable[[int], Any], steps: range, depth: int) -> Iterator[tuple[int, Any]]:
    """(step, make_batch(step)) for every step, made up to `depth` ahead in a thread. Raises what make_batch raised."""
    pending: deque[tuple[int, Future]] = deque()
    pool = ThreadPoolExecutor(1)
    try:
        for step in steps:
            pending.append((step, pool.submit(make_batch, step)))
            if len(pending) > depth:
                ready, future = pending.popleft()
                yield ready, future.result()
        while pending:
            ready, future = pending.popleft()
            yield ready, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def resume(state: TrainState, checkpoints: RunCheckpoints) -> tuple[TrainState, dict[str, Any]]:
    """The last saved state and its record, or the given one where nothing is saved.

    Raises CheckpointError where the stored state has other parameters or another optimizer than the given one.
    """
    step = checkpoints.latest()
    if step is None:
        return state, {}
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), as_tree(state))
    tree, record = checkpoints.restore(step, abstract)
    leaves = [tree["opt_state"][name] for name in as_tree(state)["opt_state"]]
    opt_state = jax.tree.unflatten(jax.tree.structure(state.opt_state), leaves)
    return TrainState(**{**tree, "opt_state": opt_state}), record


def as_tree(state: TrainState) -> dict[str, Any]:
    """The state in nested dicts: the optimizer's leaves by number and path, in their order."""
    named = jax.tree_util.tree_leaves_with_path(state.opt_state)
    leaves = {
        f"{number:04d}{jax.tree_util.keystr(path, simple=True, separator='.').replace('/', '.')}": leaf
        for number, (path, leaf) in enumerate(named)
    }
    return {**state._asdict(), "opt_state": leaves}
