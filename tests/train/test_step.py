"""One update: accumulation is exact whatever each micro-batch counts, and what is not finite changes nothing."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vxlpro_jax.train.losses import LossTerms, Tally, Term
from vxlpro_jax.train.state import new_state
from vxlpro_jax.train.step import make_check, make_train_step

PARAMS = {"a": {"w": jnp.array([0.5, -1.0, 2.0])}, "b": {"w": jnp.ones(3)}}


class Batch(NamedTuple):
    values: Any
    counted: Any
    width: Any


def make_batch(size=8, seed=0):
    rng = np.random.default_rng(seed)
    counted = rng.random((size, 3)) < np.linspace(0.1, 0.9, size)[:, None]  # micro-batches count very unlike
    return Batch(rng.normal(size=(size, 3)).astype(np.float32), counted, np.zeros(5, bool))


def loss(params, batch, key):
    assert batch.width.shape == (5,)
    squares = jnp.square(params["a"]["w"] * params["b"]["w"] - batch.values)
    fit = Term(jnp.where(batch.counted, squares, 0).sum(), batch.counted.sum())
    rows = batch.counted.any(-1)
    size = Term(jnp.where(rows, jnp.abs(params["a"]["w"]).sum(), 0.0).sum(), rows.sum(), 0.1)
    return LossTerms({"fit": fit, "size": size}, {"rows": Tally(rows.sum(dtype=jnp.float32), jnp.array(rows.size))})


def one_step(batches, optimizer=None):
    optimizer = optimizer or optax.sgd(0.1)
    return make_train_step(loss, ("a",), optimizer)(fresh(optimizer), batches)


def fresh(optimizer, *trainable, **kwargs):
    return new_state(jax.tree.map(jnp.copy, PARAMS), trainable or ("a",), optimizer, **kwargs)


def cut(batch, sizes):
    ends = np.cumsum(sizes)
    return [
        Batch(batch.values[end - size : end], batch.counted[end - size : end], batch.width)
        for size, end in zip(sizes, ends, strict=True)
    ]


@pytest.mark.parametrize("sizes", [(4, 4), (1, 1, 1, 5), (2, 6)])
def test_accumulated_gradients_are_those_of_the_whole_batch(sizes):
    """Micro-batches that count very unlike, of unlike shapes too."""
    whole, seen = one_step([make_batch()])
    parts, also = one_step(cut(make_batch(), sizes))
    np.testing.assert_allclose(parts.params["a"]["w"], whole.params["a"]["w"], rtol=1e-6)
    assert seen.keys() == also.keys()
    for name in seen:
        np.testing.assert_allclose(also[name], seen[name], rtol=1e-5, err_msg=name)


def test_a_mean_of_means_would_be_another_gradient():
    """What accumulation must not be: here it differs from the whole batch's, so the test above can fail."""
    parts = [one_step([part])[0].params["a"]["w"] - PARAMS["a"]["w"] for part in cut(make_batch(), (4, 4))]
    whole = one_step([make_batch()])[0].params["a"]["w"] - PARAMS["a"]["w"]
    assert not np.allclose(sum(parts) / 2, whole, rtol=1e-2)


def test_counting_costs_no_forward_pass():
    """The pass that only counts is dropped by the compiler, and what it does not read is not sent to the device."""
    seen = []

    def watched(params, batch, key):
        seen.append(batch)
        return loss(params, batch, key)

    optimizer = optax.sgd(0.1)
    counting = jax.jit(lambda state, batch: {n: t.number for n, t in watched(state.params, batch, None).terms.items()})
    compiled = counting.lower(fresh(optimizer), make_batch()).compile()
    assert compiled.in_avals and "multiply" not in compiled.as_text()
    kept = compiled.as_text().split("ENTRY", 1)[1].count(" parameter(")
    assert kept == 1  # the mask of what counts; neither values nor parameters


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_step_that_is_not_finite_is_not_made(bad):
    optimizer = optax.adam(0.1)
    state = fresh(optimizer)
    step = make_train_step(loss, ("a",), optimizer)
    state, _ = step(state, [make_batch()])
    before = jax.tree.map(np.asarray, (state.params, state.opt_state))
    poisoned = make_batch()
    poisoned.values[-1] = bad
    poisoned.counted[-1] = True
    for expected in (1, 2):
        state, metrics = step(state, [poisoned])
        assert int(metrics["skipped_in_row"]) == int(metrics["skipped"]) == expected
    jax.tree.map(np.testing.assert_array_equal, before, (state.params, state.opt_state))
    state, metrics = step(state, [make_batch()])
    assert int(metrics["skipped_in_row"]) == 0 and int(metrics["skipped"]) == 2 and int(state.step) == 4


def test_randomness_follows_seed_and_step():
    def noisy(params, batch, key):
        noise = jax.random.normal(key, batch.values.shape)
        return LossTerms({"fit": Term((params["a"]["w"] * noise).sum(), jnp.array(1))}, {})

    optimizer = optax.sgd(0.1)
    step = make_train_step(noisy, ("a",), optimizer)

    def losses(seed):
        state = fresh(optimizer, seed=seed)
        seen = []
        for _ in range(2):
            state, metrics = step(state, [make_batch()])
            seen.append(float(metrics["loss"]))
        return seen

    assert losses(1) == losses(1) != losses(2) and len(set(losses(1))) == 2


def test_gradient_norms_are_told_by_module():
    optimizer = optax.sgd(0.1)
    _, metrics = make_train_step(loss, ("a", "b"), optimizer)(fresh(optimizer, "a", "b"), [make_batch()])
    parts = [float(metrics[f"gradient_norm/{name}"]) for name in "ab"]
    assert float(metrics["gradient_norm"]) == pytest.approx(np.hypot(*parts), rel=1e-5) and min(parts) > 0


def test_a_check_weighs_every_counted_thing_alike():
    whole = make_batch(8)
    check = make_check(loss)
    assert check(PARAMS, cut(whole, (4, 4)))["fit"] == pytest.approx(check(PARAMS, [whole])["fit"], rel=1e-5)
