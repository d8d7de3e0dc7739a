"""Both rotations as multiplication by complex numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from vxlpro_jax.models.part_configs import ContextStretch
from vxlpro_jax.models.rope import logit_scale, rotate_heads, rotate_rows, slow_down

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


def yarn(dim, base, factor, trained_len):
    """Frequencies as transformers' _compute_yarn_parameters forms them, step by step."""
    frequencies = base ** (np.arange(0, dim, 2) / dim)
    extrapolated, interpolated = 1 / frequencies, 1 / (factor * frequencies)
    low, high = (dim * np.log(trained_len / (turns * 2 * np.pi)) / (2 * np.log(base)) for turns in (32, 1))
    low, high = max(np.floor(low), 0), min(np.ceil(high), dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)
    return interpolated * ramp + extrapolated * (1 - ramp)


def test_longer_contexts_slow_the_slow_pairs_down():
    """Qwen2.5 at four times its context: the first 24 pairs of 64 are left, from the 40th on all are slowed down."""
    stretch = ContextStretch(4.0, 32768)
    expected = yarn(128, 1e6, 4.0, 32768)
    slower = slow_down(stretch, 128, 1e6)
    np.testing.assert_allclose(slower / 1e6 ** (np.arange(0, 128, 2) / 128), expected, rtol=1e-12)
    assert (slower[:24] == 1).all() and np.allclose(slower[40:], 0.25) and (np.diff(slower[23:41]) < 0).all()
    assert abs(logit_scale(stretch) - 1.13863) < 1e-5
    x = RNG.standard_normal((1, 2, 2, 128)).astype(np.float32)
    positions = np.array([[3, 100_000]])
    angles = np.exp(1j * positions[..., None] * expected)[:, :, None] * logit_scale(stretch)
    turned = (x[..., :64] + 1j * x[..., 64:]) * angles
    rotated = jax.jit(rotate_heads, static_argnums=(2, 3))(x, positions, 1e6, stretch)
    np.testing.assert_allclose(rotated, np.concatenate([turned.real, turned.imag], -1), atol=0.05)
    np.testing.assert_allclose(rotated[:, 0], np.concatenate([turned.real, turned.imag], -1)[:, 0], atol=1e-5)
