"""Both rotations as multiplication by complex numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from vxlpro_jax.models.rope import rotate_heads, rotate_rows

HEADS = jax.jit(rotate_heads, static_argnames="base")
ROWS = jax.jit(rotate_rows, static_argnames="base")
RNG = np.random.default_rng(0)


def turns(positions, dim, base):
    return np.exp(1j * positions[..., None] * base ** (-np.arange(0, dim, 2) / dim))


def test_heads_pair_the_first_half_with_the_second():
    x = RNG.standard_normal((2, 3, 2, 8)).astype(np.float32)
    positions = np.array([[0, 1, 5], [7, 100, 2]])
    turned = (x[..., :4] + 1j * x[..., 4:]) * turns(positions, 8, 1e4)[:, :, None]
    expected = np.concatenate([turned.real, turned.imag], -1)
    np.testing.assert_allclose(HEADS(x, positions, base=1e4), expected, atol=2e-5)


def test_rows_pair_neighbours():
    x = RNG.standard_normal((5, 8)).astype(np.float32)
    positions = np.array([0, 1, 2, 40, 1000])
    turned = (x[:, 0::2] + 1j * x[:, 1::2]) * turns(positions, 8, 1e6)
    expected = np.stack([turned.real, turned.imag], -1).reshape(5, 8)
    np.testing.assert_allclose(ROWS(x, positions, base=1e6), expected, atol=2e-4)
    np.testing.assert_array_equal(ROWS(x, np.zeros(5, int), base=1e6), x)


def test_half_precision_is_computed_in_single():
    """At row 100,000 a bfloat16 angle would be off by whole turns."""
    x = jnp.ones((1, 8), jnp.bfloat16)
    far = np.array([100_000])
    ours = ROWS(x, far, base=1e6)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(ours, np.float32), ROWS(jnp.ones((1, 8)), far, base=1e6), atol=2**-7)
