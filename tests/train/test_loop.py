"""The loop: a killed and resumed run ends where an uninterrupted one does, to the bit."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vxlpro_jax.checkpoint import CheckpointError
from vxlpro_jax.train.loop import LoopConfig, last_logged_step, prefetched, resume, run_loop, save_state
from vxlpro_jax.train.losses import LossTerms, Term, weighed_mean
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


def run(workdir, batches=make_batch, num_steps=7, state=None):
    step = make_train_step(loss, ("a",), OPTIMIZER)
    return run_loop(state or fresh(), step, batches, num_steps, CONFIG, workdir, lambda params, step: {"seen": step})


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
    assert int(resume(fresh(), tmp_path / "cut").step) == 4
    again = run(tmp_path / "cut")
    assert int(again.step) == 7
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        assert (np.asarray(one) == np.asarray(other)).all()


def test_training_lowers_the_loss_and_leaves_frozen_modules_alone(tmp_path):
    state = run(tmp_path, lambda step: np.array([1.0, 2.0, 3.0], np.float32), num_steps=60)
    assert weighed_mean(loss(state.params, jnp.array([1.0, 2.0, 3.0]), None).terms) < 0.05
    assert (state.params["b"]["w"] == 1).all()


def test_metrics_and_evaluations_are_logged(tmp_path):
    run(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 7]
    assert [line["eval_seen"] for line in lines if "eval_seen" in line] == [3, 6, 7]
    assert all(line["gradient_norm"] > 0 for line in lines if "loss" in line)


def test_a_finished_run_is_not_run_again(tmp_path):
    run(tmp_path)

    def never(step):
        raise AssertionError("a batch was made")

    assert int(run(tmp_path, never).step) == 7


def test_the_last_logged_step_tells_how_far_a_run_came(tmp_path):
    assert last_logged_step(tmp_path) == -1
    run(tmp_path)
    assert last_logged_step(tmp_path) == 7


def test_a_kill_between_the_renames_keeps_the_old_state(tmp_path):
    state = fresh()
    save_state(state, tmp_path)
    (tmp_path / "state").rename(tmp_path / "state.old")
    assert (resume(fresh(), tmp_path).params["a"]["w"] == state.params["a"]["w"]).all()


def test_a_state_of_another_model_is_refused(tmp_path):
    save_state(fresh(), tmp_path)
    other = new_state({"a": {"w": jnp.zeros(4)}, "b": {"w": jnp.ones(3)}}, ("a",), OPTIMIZER)
    with pytest.raises(CheckpointError, match="params/a/w"):
        resume(other, tmp_path)


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
