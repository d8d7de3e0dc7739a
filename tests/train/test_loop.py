"""The loop: a killed and resumed run ends where an uninterrupted one does, to the bit."""

import os
import signal
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vxlpro_jax.checkpoint import CheckpointError, RunCheckpoints
from vxlpro_jax.train.loop import (
    LoopConfig,
    NotFiniteError,
    StoppedError,
    Watch,
    as_tree,
    prefetched,
    resume,
    run_loop,
)
from vxlpro_jax.train.losses import LossTerms, Term, weighed_mean
from vxlpro_jax.train.run_log import read_log
from vxlpro_jax.train.state import new_state
from vxlpro_jax.train.step import make_train_step

CONFIG = LoopConfig(log_every=2, eval_every=3, save_every=2, prefetch=2)
OPTIMIZER = optax.adam(0.1)


def fresh():
    params = {"a": {"w": jnp.arange(3.0)}, "b": {"w": jnp.ones(3)}}
    return new_state(params, ("a",), OPTIMIZER)


def loss(params, batch, key):
    squares = jnp.square(params["a"]["w"] * params["b"]["w"] - batch)
    return LossTerms({"square": Term(squares.sum(), jnp.array(squares.size))}, {})


def make_batch(step):
    return np.random.default_rng(step).normal(size=3).astype(np.float32)


def run(
    workdir, batches=make_batch, num_steps=7, config=CONFIG, evaluate=lambda params, step: {"seen": step}, **kwargs
):
    step = make_train_step(loss, ("a",), OPTIMIZER)
    return run_loop(fresh(), step, batches, num_steps, config, workdir, evaluate, **kwargs)


def saved_step(workdir):
    return int(resume(fresh(), RunCheckpoints(workdir / "checkpoints", 2, 0))[0].step)


def losses(workdir):
    return [(line["step"], line["loss"]) for line in read_log(workdir) if "loss" in line]


class Killed(Exception):
    pass


def test_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    whole = run(tmp_path / "whole")

    def killed(step):
        if step == 5:
            raise Killed
        return make_batch(step)

    with pytest.raises(Killed):
        run(tmp_path / "cut", killed)
    assert saved_step(tmp_path / "cut") == 4
    again = run(tmp_path / "cut")
    assert int(again.step) == 7
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        assert (np.asarray(one) == np.asarray(other)).all()
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_training_lowers_the_loss_and_leaves_frozen_modules_alone(tmp_path):
    state = run(tmp_path, lambda step: np.array([1.0, 2.0, 3.0], np.float32), num_steps=60)
    assert weighed_mean(loss(state.params, jnp.array([1.0, 2.0, 3.0]), None).terms) < 0.05
    assert (state.params["b"]["w"] == 1).all()


def test_metrics_and_evaluations_are_logged(tmp_path):
    run(tmp_path)
    lines = read_log(tmp_path)
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 7]
    assert [line["eval_seen"] for line in lines if "eval_seen" in line] == [3, 6, 7]
    assert all(line["gradient_norm"] > 0 for line in lines if "loss" in line)


def test_a_finished_run_is_not_run_again(tmp_path):
    run(tmp_path)

    def never(step):
        raise AssertionError("a batch was made")

    assert int(run(tmp_path, never).step) == 7


def test_a_state_of_another_model_is_refused(tmp_path):
    checkpoints = RunCheckpoints(tmp_path, 1, 0)
    checkpoints.save(3, as_tree(fresh()), {})
    checkpoints.close()
    other = new_state({"a": {"w": jnp.zeros(4)}, "b": {"w": jnp.ones(3)}}, ("a",), OPTIMIZER)
    with pytest.raises(CheckpointError, match=r"params/a/w is \[3\], the model's is \[4\].*another model, stage"):
        resume(other, RunCheckpoints(tmp_path, 1, 0))


def test_the_window_of_the_log_outlives_a_stop(tmp_path):
    """Stopped between two lines of the log, a run says the same means as one that was not."""
    config = LoopConfig(log_every=5, eval_every=100, save_every=100, prefetch=1)
    run(tmp_path / "whole", config=config)

    def stopping(step):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return make_batch(step)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedError, match="of 7; the same command goes on"):
        run(tmp_path / "cut", stopping, config=config)
    assert signal.getsignal(signal.SIGTERM) is before
    assert 0 < saved_step(tmp_path / "cut") < 7
    run(tmp_path / "cut", config=config)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_a_line_that_a_kill_cut_short_and_steps_that_are_lost_leave_the_log(tmp_path):
    run(tmp_path, num_steps=4)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "loss": 1.0}\n{"step": 7, "lo')
    run(tmp_path, num_steps=7)
    assert [step for step, _ in losses(tmp_path)] == [2, 4, 6, 7]


def test_micro_batches_are_gathered_in_order(tmp_path):
    asked = []

    def noting(number):
        asked.append(number)
        return make_batch(number)

    run(tmp_path, noting, num_steps=3, micro_batches=4)
    assert asked == list(range(12)) and len(losses(tmp_path)) == 2


class Sampled(NamedTuple):
    values: Any
    sample_ids: Any


def sampled_run(workdir, config, is_bad, num_steps=30, **kwargs):
    """A run whose batches are poisoned where is_bad(number) says so; each holds two samples."""

    def sampled_loss(params, batch, key):
        return loss(params, batch.values, key)

    def poisoned(number):
        values = make_batch(number) * (np.nan if is_bad(number) else 1)
        return Sampled(values, np.array([10 * number, 10 * number + 1]))

    step = make_train_step(sampled_loss, ("a",), OPTIMIZER)
    return run_loop(fresh(), step, poisoned, num_steps, config, workdir, lambda params, step: {}, **kwargs)


def test_a_run_of_steps_that_are_not_finite_stops_and_names_the_samples(tmp_path):
    config = LoopConfig(log_every=1, eval_every=100, save_every=100, prefetch=1, max_skipped_in_row=2)
    watch = Watch(name_sample=lambda number: f"records.json:{number}")
    told = r"2 steps in a row; steps 4 to 5 saw the samples records.json:30, records.json:31, .*json:41\. None"
    with pytest.raises(NotFiniteError, match=told):
        sampled_run(tmp_path, config, lambda number: number >= 3, watch=watch)
    lines = read_log(tmp_path)
    assert lines[3]["loss"] is None and lines[3]["skipped"] == 1


@pytest.mark.parametrize("first_bad", [0, 3])
def test_a_run_that_ends_in_steps_that_are_not_finite_is_no_success(tmp_path, first_bad):
    """As many as are borne at the end, or nothing else at all: the last step is looked at too."""
    config = LoopConfig(100, 100, 100, 1, max_skipped_in_row=3 if first_bad else 100)
    for _ in range(2):  # started again, it says so again
        with pytest.raises(NotFiniteError, match="steps in a row"):
            sampled_run(tmp_path, config, lambda number: number >= first_bad, num_steps=6)


def test_a_state_with_too_many_skipped_steps_is_not_saved(tmp_path):
    """A start from it would end at once, whatever its samples are."""
    config = LoopConfig(100, 100, 1, 1, max_skipped_in_row=2)
    with pytest.raises(NotFiniteError, match="steps 3 to 4 saw"):
        sampled_run(tmp_path, config, lambda number: number >= 2)
    assert saved_step(tmp_path) == 3
    assert int(sampled_run(tmp_path, config, lambda number: False, num_steps=6).skipped) == 1


def test_many_samples_are_told_by_their_number(tmp_path):
    config = LoopConfig(100, 100, 100, 1, max_skipped_in_row=40)
    with pytest.raises(NotFiniteError, match="310, 311 and 16 more. None"):
        sampled_run(tmp_path, config, lambda number: True, num_steps=40)


class Unjudgeable(Exception):
    pass


def failing(params, step):
    raise Unjudgeable


@pytest.mark.parametrize("save_every", [3, 100])
def test_an_evaluation_that_fails_costs_no_step_and_is_made_up_for(tmp_path, save_every):
    config = LoopConfig(2, 3, save_every, 2)
    for _ in range(2):
        with pytest.raises(Unjudgeable):
            run(tmp_path / "cut", config=config, evaluate=failing)
        assert saved_step(tmp_path / "cut") == 3
    run(tmp_path / "cut", config=config)
    run(tmp_path / "whole", config=config)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert [line["eval_seen"] for line in read_log(tmp_path / "cut") if "eval_seen" in line] == [3, 6, 7]


def test_the_best_checkpoint_is_kept(tmp_path):
    config = LoopConfig(1, 2, 2, 1, keep_last=1, keep_best=1, best_metric="right", best_is="highest")
    run(tmp_path, num_steps=10, config=config, evaluate=lambda params, step: {"right": -abs(step - 4)})
    assert RunCheckpoints(tmp_path / "checkpoints", 1, 1).steps() == [4, 10]


def test_the_best_checkpoint_is_known_to_a_later_start(tmp_path):
    config = LoopConfig(1, 2, 2, 1, keep_last=1, keep_best=1, best_metric="right", best_is="highest")
    for num_steps in (6, 10):
        run(tmp_path, num_steps=num_steps, config=config, evaluate=lambda params, step: {"right": -abs(step - 4)})
    assert RunCheckpoints(tmp_path / "checkpoints", 1, 1).steps() == [4, 10]


def test_a_best_metric_that_nobody_tells_is_named_before_the_first_step(tmp_path):
    config = LoopConfig(1, 2, 2, 1, best_metric="wrong")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"best_metric='wrong'.*\['seen'\]"):
            run(tmp_path, lambda number: pytest.fail("a batch was made"), config=config)
    assert not RunCheckpoints(tmp_path / "checkpoints", 1, 1).steps()


def test_speed_rates_and_waiting_are_told(tmp_path):
    watch = Watch(
        rates=lambda updates: {"rate": 0.5**updates},
        work=lambda batches: {"frames": 8.0, "flops": 1e9},
        peak_flops=1e12,
        counts=lambda: {"rounds_dropped": 3},
    )
    run(tmp_path, watch=watch)
    line = read_log(tmp_path)[0]
    assert line["rounds_dropped"] == 3
    assert line["rate"] == 0.25 and line["frames_per_s"] > 0 and line["mfu"] == pytest.approx(line["tflops_per_s"])
    assert 0 <= line["wait_share"] <= 1 and line["host_gib"] > 0
    assert list((tmp_path / "tensorboard").iterdir())


def test_evaluations_are_no_part_of_the_speed(tmp_path):
    def slow(params, step):
        time.sleep(0.5)
        return {}

    run(tmp_path, num_steps=8, config=LoopConfig(4, 2, 100, 1), evaluate=slow)
    line = [line for line in read_log(tmp_path) if line["step"] == 8][0]
    assert line["steps_per_s"] > 4  # of steps 5 to 8, during which a second went by in evaluations


def test_no_more_batches_are_ready_than_asked_for(tmp_path):
    made, ready = [], []
    plain = make_train_step(loss, ("a",), OPTIMIZER)

    def noting(number):
        made.append(number)
        return make_batch(number)

    def step(state, batches):
        time.sleep(0.05)
        ready.append(len(made) - 8 * (len(ready) + 1))
        return plain(state, batches)

    run_loop(fresh(), step, noting, 3, LoopConfig(9, 9, 9, 2), tmp_path, lambda params, step: {}, micro_batches=8)
    assert ready == [2, 2, 0]


def test_batches_come_in_order_and_errors_come_through():
    assert list(prefetched(lambda step: step * 2, range(3, 8), 2)) == [(i, 2 * i) for i in range(3, 8)]

    def broken(step):
        if step == 2:
            raise Killed
        return step

    seen = []
    with pytest.raises(Killed):
        for step, _ in prefetched(broken, range(5), 3):
            seen.append(step)
    assert seen == [0, 1]
