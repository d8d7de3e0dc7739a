"""The loop: batches in from a thread, updates, a metrics log, evaluation, checkpoints, and resuming where a killed run stopped.

Source: ours. Batch i is a function of (seed, i), so a resumed run sees what an uninterrupted one would have seen.
"""

import json
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator
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

    workdir gets metrics.jsonl (a line per log_every steps and per evaluation) and the state. Raises what make_batch raised.
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
    ready: queue.Queue = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def offer(item) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for step in steps:
                if not offer((step, make_batch(step), None)):
                    return
        except BaseException as error:  # handed to the caller's thread, where it is raised
            offer((-1, None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        for _ in steps:
            step, batch, error = ready.get()
            if error is not None:
                raise error
            yield step, batch
    finally:
        stopped.set()
        thread.join()


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
    structure = jax.tree.structure(state.opt_state)
    leaves = [stored["opt_state"][f"{i:04d}"] for i in range(structure.num_leaves)]
    return TrainState(stored["step"], stored["params"], jax.tree.unflatten(structure, leaves))


def _as_tree(state: TrainState) -> dict[str, Any]:
    leaves = jax.tree.leaves(state.opt_state)
    return {
        "step": state.step,
        "params": state.params,
        "opt_state": {f"{i:04d}": leaf for i, leaf in enumerate(leaves)},
    }


def _log(workdir: Path, line: dict[str, Any]) -> None:
    with open(workdir / METRICS_FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
