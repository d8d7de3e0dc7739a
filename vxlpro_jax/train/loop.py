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
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from tqdm import tqdm

from vxlpro_jax.checkpoint import RunCheckpoints
from vxlpro_jax.parallel.mesh import device_memory, process_memory
from vxlpro_jax.train.run_log import RunLog
from vxlpro_jax.train.state import Params, TrainState
from vxlpro_jax.train.step import TrainStep

CHECKPOINT_FOLDER = "checkpoints"
SAMPLES_TOLD = 64


@dataclass(frozen=True)
class LoopConfig:
    """How often, in steps, a line is logged, the model is evaluated and the state is saved; batches prepared ahead.

    keep_last, keep_best: checkpoints that stay; best_metric names a value of the evaluation and best_is says which way
    is better ("" = none is best). max_skipped_in_row: steps that are not finite, one after the other, that end the run.
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


class StoppedError(RuntimeError):
    """The run was asked to stop (SIGTERM or Ctrl-C); its state is saved."""


class NotFiniteError(ValueError):
    """Losses or gradients were not finite too often in a row."""


@dataclass
class Watch:
    """What is worth telling beside the metrics, handed in by whoever knows.

    rates: (updates made) -> learning rate by part. work: (micro-batches) -> samples, frames, tokens and flops in them.
    peak_flops: per second of all devices together; 0 where unknown.
    """

    rates: Callable[[int], dict[str, float]] = lambda updates: {}
    work: Callable[[Sequence[Any]], dict[str, float]] = lambda batches: {}
    peak_flops: float = 0.0


@dataclass
class _Window:
    """What was seen since the last line of the log."""

    seen: list[dict[str, Any]] = field(default_factory=list)
    work: dict[str, float] = field(default_factory=dict)
    waited_s: float = 0.0
    started_s: float = field(default_factory=time.perf_counter)
    steps: int = 0

    def line(self, watch: Watch) -> dict[str, Any]:
        """Means of what the steps told, and what was done in a second."""
        finite = [line for line in self.seen if np.isfinite(line["loss"]) and np.isfinite(line["gradient_norm"])]
        means = {name: float(np.mean([line[name] for line in finite or self.seen])) for name in self.seen[-1]}
        means |= {name: int(self.seen[-1][name]) for name in ("skipped", "skipped_in_row")}
        seconds = max(time.perf_counter() - self.started_s, 1e-9)
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
    checkpoints = RunCheckpoints(workdir / CHECKPOINT_FOLDER, config.keep_last, config.keep_best)
    state, record = resume(state, checkpoints)
    runner = _Runner(state, train_step, config, workdir, evaluate, watch or Watch(), checkpoints)
    try:
        if int(state.step) < num_steps:
            runner.window.seen = record.get("window", [])
            with stop_requests() as stop:
                runner.run(make_batch, num_steps, micro_batches, stop)
    finally:
        runner.log.close()
        checkpoints.close()  # a save that is under way is brought to its end
    return runner.state


class _Runner:
    """The loop's state: what run_loop was given, and what has gathered since the last line of the log."""

    def __init__(self, state, train_step, config: LoopConfig, workdir: Path, evaluate, watch: Watch, checkpoints):
        self.state, self.train_step, self.config, self.evaluate = state, train_step, config, evaluate
        self.watch, self.checkpoints = watch, checkpoints
        self.window = _Window()
        self.log = RunLog(workdir, int(state.step))
        self.name = workdir.name
        self.recent: deque[tuple[int, list[int]]] = deque(maxlen=config.max_skipped_in_row + 1)

    def run(self, make_batch, num_steps: int, micro_batches: int, stop: threading.Event) -> None:
        first = int(self.state.step)
        numbers = range(first * micro_batches, num_steps * micro_batches)
        parts = prefetched(make_batch, numbers, max(self.config.prefetch, micro_batches))
        began = time.perf_counter()
        with tqdm(initial=first, total=num_steps, unit="step", desc=self.name, mininterval=5.0) as progress:
            for step in range(first, num_steps):
                asked = time.perf_counter()
                batches = [next(parts)[1] for _ in range(micro_batches)]
                self.window.waited_s += time.perf_counter() - asked
                done = step + 1
                self.update(done, batches)
                progress.update()
                last = done == num_steps
                if done % self.config.log_every == 0 or last:
                    line = self.window.line(self.watch)
                    made = done - line["skipped"]
                    line |= self.watch.rates(made) | {"memory_gib": device_memory(), "host_gib": process_memory()}
                    self.log.write(done, {"seconds": round(time.perf_counter() - began, 1), **line})
                    progress.set_postfix({"loss": f"{line['loss']:.4g}", "wait": line["wait_share"]}, refresh=False)
                    self.window = _Window()
                quality = None
                if done % self.config.eval_every == 0 or last:
                    quality = self.judge(done)
                if done % self.config.save_every == 0 or last or stop.is_set():
                    self.save(done, quality)
                if stop.is_set() and not last:
                    self.checkpoints.wait()
                    raise StoppedError(
                        f"stopped after step {done} of {num_steps}; the same command goes on from there."
                    )

    def update(self, done: int, batches: list[Any]) -> None:
        """One step; the one before is looked at only now, so that the device need not wait for us."""
        self.state, metrics = self.train_step(self.state, batches)
        ids = [np.asarray(batch.sample_ids).reshape(-1).tolist() for batch in batches if hasattr(batch, "sample_ids")]
        self.recent.append((done, sum(ids, [])))
        for name, value in self.watch.work(batches).items():
            self.window.work[name] = self.window.work.get(name, 0.0) + value
        self.window.seen.append(metrics)
        self.window.steps += 1
        if len(self.window.seen) > 1:
            self.window.seen[-2] = _on_host(self.window.seen[-2])
        behind = min(len(self.window.seen), 2)
        in_row = int(self.window.seen[-behind]["skipped_in_row"])
        if in_row >= self.config.max_skipped_in_row:
            settled = list(self.recent)[: len(self.recent) + 1 - behind]
            raise NotFiniteError(self.not_finite(in_row, settled[-in_row:]))

    def not_finite(self, in_row: int, steps: list[tuple[int, list[int]]]) -> str:
        ids = sorted({sample for _, samples in steps for sample in samples})
        named = f"samples {ids[:SAMPLES_TOLD]}{' ...' if len(ids) > SAMPLES_TOLD else ''}" if ids else "batches"
        return (
            f"loss or gradient was not finite in {in_row} steps in a row; they saw "
            f"{named} of steps {steps[0][0]} to {steps[-1][0]}. None of these steps was made. Look at the samples, or "
            "lower optimizer.peak_rate; loop.max_skipped_in_row says how many are borne."
        )

    def judge(self, done: int) -> float | None:
        """Evaluate and log; the quality by which the best checkpoint is kept."""
        found = self.evaluate(self.state.params, done)
        self.log.write(done, {f"eval_{name}": value for name, value in found.items()})
        for value in found.values():
            if isinstance(value, str):
                tqdm.write(value)
        if not self.config.best_metric:
            return None
        if self.config.best_metric not in found:
            raise ValueError(f"loop.best_metric={self.config.best_metric!r}: the evaluation tells {sorted(found)}.")
        value = float(found[self.config.best_metric])
        return value if self.config.best_is == "highest" else -value

    def save(self, done: int, quality: float | None) -> None:
        self.window.seen = [_on_host(line) for line in self.window.seen]
        record = {"step": done, "window": list(self.window.seen)}  # a list of its own: it is written while we go on
        self.checkpoints.save(done, as_tree(self.state), record, quality)


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
