"""The loop: batches from a thread, updates, a metrics log, evaluation, checkpoints, and resuming a killed run.

Source: ours. Batch i is a function of (seed, i), so a resumed run sees what an uninterrupted one would have seen.
"""

import json
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from vxlpro_jax.checkpoint import restore_params, save_params
from vxlpro_jax.train.state import Params, TrainState

CHECKPOINT_FOLDER, METRICS_FILE = "state", "metrics.jsonl"


@dataclass(frozen=True)
class LoopConfig:
    """How often, in steps, a line is logged, the model is evaluated and the state is saved; batches prepared ahead."""

    log_every: int
    eval_every: int
    save_every: int
    prefetch: int


def run_loop(
    state: TrainState,
    train_step: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]],
    make_batch: Callable[[int], Any],
    num_steps: int,
    config: LoopConfig,
    workdir: Path,
    evaluate: Callable[[Params, int], dict[str, float]],
) -> TrainState:
    """Train from the state's step to num_steps; a checkpoint found in workdir is gone on from.

    workdir gets metrics.jsonl (a line per log_every steps and per evaluation) and the state. Raises what make_batch
    raised.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    state = resume(state, workdir)
    first = int(state.step)
    if first >= num_steps:
        return state
    started, seen = time.perf_counter(), []
    progress = tqdm(initial=first, total=num_steps, unit="step", desc=workdir.name, mininterval=5.0)
    for step, batch in prefetched(make_batch, range(first, num_steps), config.prefetch):
        state, metrics = train_step(state, batch)
        seen.append(metrics)
        done = step + 1
        progress.update()
        if done % config.log_every == 0 or done == num_steps:
            means = {name: float(np.mean([float(line[name]) for line in seen])) for name in metrics}
            progress.set_postfix({name: f"{value:.3f}" for name, value in list(means.items())[:4]}, refresh=False)
            _log(workdir, {"step": done, "seconds": round(time.perf_counter() - started, 1), **means})
            seen = []
        if done % config.eval_every == 0 or done == num_steps:
            _log(
                workdir, {"step": done, **{f"eval_{key}": value for key, value in evaluate(state.params, done).items()}}
            )
        if done % config.save_every == 0 or done == num_steps:
            save_state(state, workdir)
    progress.close()
    return state


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


def save_state(state: TrainState, workdir: Path) -> None:
    """Write the state beside the last one, then take its place: a kill leaves the one or the other whole."""
    target, part = workdir / CHECKPOINT_FOLDER, workdir / f"{CHECKPOINT_FOLDER}.part"
    shutil.rmtree(part, ignore_errors=True)
    save_params(part, _as_tree(state))
    old = workdir / f"{CHECKPOINT_FOLDER}.old"
    if target.exists():
        target.rename(old)
    part.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def resume(state: TrainState, workdir: Path) -> TrainState:
    """The state that workdir holds, or the given one where it holds none.

    Raises CheckpointError where the stored state has other parameters or another optimizer than the given one.
    """
    folder = workdir / CHECKPOINT_FOLDER
    if not folder.exists():
        folder = workdir / f"{CHECKPOINT_FOLDER}.old"  # killed between the two renames
    if not folder.exists():
        return state
    tree = _as_tree(state)
    stored = restore_params(folder, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree))
    stored = jax.tree.map(jax.numpy.asarray, stored)
    leaves = [stored["opt_state"][name] for name in sorted(stored["opt_state"])]
    opt_state = jax.tree.unflatten(jax.tree.structure(state.opt_state), leaves)
    return TrainState(**{**stored, "opt_state": opt_state})


def _as_tree(state: TrainState) -> dict[str, Any]:
    leaves = jax.tree.leaves(state.opt_state)
    return {**state._asdict(), "opt_state": {f"{i:04d}": leaf for i, leaf in enumerate(leaves)}}


def last_logged_step(workdir: Path) -> int:
    """The step of the last line in a run's metrics; -1 where there is none."""
    path = workdir / METRICS_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else -1


def _log(workdir: Path, line: dict[str, Any]) -> None:
    with open(workdir / METRICS_FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
