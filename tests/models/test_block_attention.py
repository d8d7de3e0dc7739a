"""Attention in blocks against the plain form: values, gradients, what it never holds in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vxlpro_jax.models import block_attention
from vxlpro_jax.models.attention import attend, attend_stored
from vxlpro_jax.models.block_attention import attend_in_blocks, read_in_blocks

RNG = np.random.default_rng(0)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(block_attention, "QUERY_BLOCK", 4)
    monkeypatch.setattr(block_attention, "KEY_BLOCK", 6)
    monkeypatch.setattr(block_attention, "LONE_KEY_BLOCK", 12)


def rows(num_queries: int, num_keys: int, dtype=np.float32):
    """q of 6 heads, k and v of 2, with logits large enough to tell keys apart."""
    shapes = ((2, num_queries, 6, 8), (2, num_keys, 2, 8), (2, num_keys, 2, 8))
    return [jnp.asarray(2 * RNG.standard_normal(shape), dtype) for shape in shapes]


def valid_keys(num_keys: int):
    """Holes in one row, in the other a whole block of keys that nobody sees; the first is there for every query."""
    valid = RNG.random((2, num_keys)) < 0.7
    valid[1, 6:12] = False
    valid[:, 0] = True
    return jnp.asarray(valid)


# Lengths below, at, and no multiple of the blocks; queries in the middle of the keys, after them, and one alone.
CASES = [
    (13, 13, 0, True),
    (12, 12, 0, False),
    (3, 5, 2, True),
    (9, 31, 10, True),
    (9, 31, 22, False),
    (1, 31, 30, True),
    (5, 20, 40, True),
    (13, 20, None, False),
]


@pytest.mark.parametrize("num_queries, num_keys, first_slot, holes", CASES)
def test_values_and_gradients_equal_the_plain_form(small_blocks, num_queries, num_keys, first_slot, holes):
    q, k, v = rows(num_queries, num_keys)
    valid = valid_keys(num_keys) if holes else None
    weight = RNG.standard_normal(q.shape).astype(np.float32)

    def run(form):
        def loss(q, k, v):
            out = form(q, k, v, valid, first_slot)
            return (out * weight).sum(), out

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)

    (_, plain), plain_gradients = run(attend)
    (_, blocks), gradients = run(attend_in_blocks)
    np.testing.assert_allclose(blocks, plain, atol=2e-5)
    for mine, theirs in zip(gradients, plain_gradients, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)
        assert np.abs(theirs).max() > 0.1  # else nothing was compared


def test_half_precision(small_blocks):
    q, k, v = rows(9, 31, jnp.bfloat16)
    out = attend_in_blocks(q, k, v, None, 22)
    assert out.dtype == jnp.bfloat16
    exact = attend(*(x.astype(jnp.float32) for x in (q, k, v)), None, 22)
    np.testing.assert_allclose(np.asarray(out, np.float32), exact, atol=0.05)


def test_one_layer_is_read_from_a_stack(small_blocks):
    q, k, v = rows(5, 20)
    valid = valid_keys(20)
    keys, values = (jnp.stack([x + 9, x, x - 9]) for x in (k, v))
    read = jax.jit(read_in_blocks)(q, keys, values, jnp.int32(1), valid, jnp.int32(8))
    np.testing.assert_allclose(read, attend(q, k, v, valid, 8), atol=2e-5)


def test_keys_after_the_queries_are_not_touched(small_blocks):
    """NaN in blocks that no query sees would show, were they computed."""
    q, k, v = rows(5, 24)
    expected = attend(q, k, v, None, 3)
    k, v = k.at[:, 12:].set(jnp.nan), v.at[:, 12:].set(jnp.nan)
    np.testing.assert_allclose(attend_in_blocks(q, k, v, None, 3), expected, atol=2e-5)


def test_a_query_that_sees_nothing_gets_zeros_and_gives_no_gradient(small_blocks):
    q, k, v = rows(5, 8)
    valid = jnp.ones((2, 8), bool).at[0, :4].set(False)
    out = attend_in_blocks(q, k, v, valid, 0)
    assert (np.asarray(out[0, :4]) == 0).all() and np.isfinite(out).all()
    gradients = jax.grad(lambda *x: attend_in_blocks(*x, valid, 0).sum(), argnums=(0, 1, 2))(q, k, v)
    assert all(np.isfinite(x).all() for x in gradients)
    assert (np.asarray(gradients[0][0, :4]) == 0).all() and (np.asarray(gradients[1][0, :4]) == 0).all()


def _largest(jaxpr) -> int:
    """Elements of the largest array that a program makes, its loops included."""
    sizes = [var.aval.size for equation in jaxpr.eqns for var in equation.outvars]
    parameters = [value for equation in jaxpr.eqns for value in equation.params.values()]
    parts = [part for value in parameters for part in (value if isinstance(value, tuple | list) else [value])]
    bodies = [getattr(part, "jaxpr", part) for part in parts]
    return max([*sizes, *(_largest(body) for body in bodies if hasattr(body, "eqns"))], default=0)


def test_nothing_of_queries_times_keys_is_made():
    """At full width and the real block sizes, in both directions and over a cache: no array beyond the rows' own."""
    length, heads, width = 8192, 16, 128
    q, k = (jax.ShapeDtypeStruct((1, length, n, width), jnp.bfloat16) for n in (heads, 2))
    valid, slot = jax.ShapeDtypeStruct((1, length), bool), jax.ShapeDtypeStruct((), jnp.int32)

    def gradient(q, k, v, valid):
        return jax.grad(lambda *x: attend(*x, valid, 0).astype(jnp.float32).sum(), (0, 1, 2))(q, k, v)

    assert _largest(jax.make_jaxpr(gradient)(q, k, k, valid).jaxpr) == length * heads * width < length**2
    cache = jax.ShapeDtypeStruct((36, 1, 8 * length, 2, width), jnp.bfloat16)
    valid = jax.ShapeDtypeStruct((1, 8 * length), bool)
    read = jax.make_jaxpr(attend_stored)(q, cache, cache, slot, valid, slot)
    assert _largest(read.jaxpr) == length * heads * width
