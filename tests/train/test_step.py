"""One update: accumulation is exact whatever each micro-batch counts, and what is not finite changes nothing."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vxlpro_jax.train.losses import LossTerms, Tally, Term
from vxlpro_jax.train.state import new_state
from vxlpro_jax.train.step import make_check, make_train_step, split_batch

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


def one_step(micro_batches, batch, optimizer=None, **kwargs):
    optimizer = optimizer or optax.sgd(0.1)
    state = new_state(jax.tree.map(jnp.copy, PARAMS), ("a",), optimizer)
    return make_train_step(loss, ("a",), optimizer, micro_batches=micro_batches, **kwargs)(state, batch)


@pytest.mark.parametrize("micro_batches", [2, 4, 8])
def test_accumulated_gradients_are_those_of_the_whole_batch(micro_batches):
    whole, seen = one_step(1, make_batch())
    parts, also = one_step(micro_batches, make_batch())
    np.testing.assert_allclose(parts.params["a"]["w"], whole.params["a"]["w"], rtol=1e-6)
    assert seen.keys() == also.keys()
    for name in seen:
        np.testing.assert_allclose(also[name], seen[name], rtol=1e-5, err_msg=name)


def test_counting_costs_no_forward_pass():
    """The pass that only counts is dropped by the compiler: the program has as many cosines as micro-batch gradients
    alone need."""

    def heavy(params, batch, key):
        waves = jnp.cos(params["a"]["w"] * batch.values)
        return LossTerms({"fit": Term(jnp.where(batch.counted, waves, 0).sum(), batch.counted.sum())}, {})

    optimizer = optax.sgd(0.1)
    state = new_state(jax.tree.map(jnp.copy, PARAMS), ("a",), optimizer)
    text = make_train_step(heavy, ("a",), optimizer, micro_batches=4).lower(state, make_batch()).compile().as_text()
    assert text.count(" cosine(") == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_step_that_is_not_finite_is_not_made(bad):
    optimizer = optax.adam(0.1)
    state = new_state(jax.tree.map(jnp.copy, PARAMS), ("a",), optimizer)
    step = make_train_step(loss, ("a",), optimizer)
    state, _ = step(state, make_batch())
    before = jax.tree.map(np.asarray, (state.params, state.opt_state))
    poisoned = make_batch()
    poisoned.values[-1] = bad
    poisoned.counted[-1] = True
    for expected in (1, 2):
        state, metrics = step(state, poisoned)
        assert int(metrics["skipped_in_row"]) == int(metrics["skipped"]) == expected
    jax.tree.map(np.testing.assert_array_equal, before, (state.params, state.opt_state))
    state, metrics = step(state, make_batch())
    assert int(metrics["skipped_in_row"]) == 0 and int(metrics["skipped"]) == 2 and int(state.step) == 4


def test_a_batch_that_does_not_divide_is_named():
    with pytest.raises(ValueError, match="8 samples in 3 micro-batches.*stage.micro_batches"):
        split_batch(make_batch(), 3)


def test_several_rows_per_sample_stay_with_their_sample():
    cut = split_batch({"pixels": np.arange(4), "labels": np.arange(8)}, 2)
    assert cut["labels"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_randomness_follows_seed_and_step():
    def noisy(params, batch, key):
        noise = jax.random.normal(key, batch.values.shape)
        return LossTerms({"fit": Term((params["a"]["w"] * noise).sum(), jnp.array(1))}, {})

    optimizer = optax.sgd(0.1)
    step = make_train_step(noisy, ("a",), optimizer)

    def losses(seed):
        state = new_state(jax.tree.map(jnp.copy, PARAMS), ("a",), optimizer, seed=seed)
        seen = []
        for _ in range(2):
            state, metrics = step(state, make_batch())
            seen.append(float(metrics["loss"]))
        return seen

    assert losses(1) == losses(1) != losses(2) and len(set(losses(1))) == 2


def test_gradient_norms_are_told_by_module():
    optimizer = optax.sgd(0.1)
    state = new_state(jax.tree.map(jnp.copy, PARAMS), ("a", "b"), optimizer)
    _, metrics = make_train_step(loss, ("a", "b"), optimizer)(state, make_batch())
    parts = [float(metrics[f"gradient_norm/{name}"]) for name in "ab"]
    assert float(metrics["gradient_norm"]) == pytest.approx(np.hypot(*parts), rel=1e-5) and min(parts) > 0


def test_a_check_weighs_every_counted_thing_alike():
    whole = make_batch(8)
    parts = [Batch(whole.values[i : i + 4], whole.counted[i : i + 4], whole.width) for i in (0, 4)]
    check = make_check(loss)
    assert check(PARAMS, parts)["fit"] == pytest.approx(check(PARAMS, [whole])["fit"], rel=1e-5)
