"""Norms and activations against their formulas, and their float32 islands."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vxlpro_jax.models.layers import Embedding, GroupNorm, LayerNorm, Linear, RMSNorm, gelu_erf, gelu_tanh

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4, 8)).astype(np.float32) * 3 + 2
SCALE = RNG.standard_normal(8).astype(np.float32)
BIAS = RNG.standard_normal(8).astype(np.float32)


def test_layer_norm():
    params = {"scale": SCALE, "bias": BIAS}
    expected = (X - X.mean(-1, keepdims=True)) / np.sqrt(X.var(-1, keepdims=True) + 0.5) * SCALE + BIAS
    np.testing.assert_allclose(LayerNorm(0.5, "embed").apply({"params": params}, jnp.asarray(X)), expected, atol=1e-5)


def test_rms_norm():
    expected = X / np.sqrt((X**2).mean(-1, keepdims=True) + 0.5) * SCALE
    np.testing.assert_allclose(
        RMSNorm(0.5, "embed").apply({"params": {"scale": SCALE}}, jnp.asarray(X)), expected, atol=1e-5
    )


def test_group_norm_pools_everything_but_the_sample_and_the_group():
    expected = np.zeros_like(X)
    for sample in range(2):
        for group in range(4):
            part = X[sample, ..., 2 * group : 2 * group + 2]
            expected[sample, ..., 2 * group : 2 * group + 2] = (part - part.mean()) / np.sqrt(part.var() + 0.5)
    ours = GroupNorm(4, 0.5, "dts").apply({"params": {"scale": SCALE, "bias": BIAS}}, jnp.asarray(X))
    np.testing.assert_allclose(ours, expected * SCALE + BIAS, atol=1e-5)


@pytest.mark.parametrize("norm", [LayerNorm(1e-6, "embed"), RMSNorm(1e-6, "embed"), GroupNorm(2, 1e-6, "dts")])
def test_norms_compute_in_single_and_return_the_working_type(norm):
    """Squares of 2000 overflow float16; the norm must not."""
    x = X.astype(np.float16) * 1000
    params = {"scale": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)}
    if isinstance(norm, RMSNorm):
        del params["bias"]
    ours = norm.apply({"params": params}, jnp.asarray(x))
    assert ours.dtype == jnp.float16
    single = norm.apply({"params": params}, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(np.asarray(ours, np.float32), single, atol=2e-3)


def test_linear_keeps_the_working_type_and_its_bias_is_optional():
    kernel = RNG.standard_normal((8, 5)).astype(np.float32)
    bias = np.arange(5, dtype=np.float32)
    ours = Linear(5, ("embed", "mlp")).apply({"params": {"kernel": kernel, "bias": bias}}, jnp.asarray(X))
    np.testing.assert_allclose(ours, X @ kernel + bias, atol=1e-4)
    bare = Linear(5, ("embed", "mlp"), use_bias=False)
    np.testing.assert_allclose(bare.apply({"params": {"kernel": kernel}}, jnp.asarray(X)), X @ kernel, atol=1e-4)
    assert bare.apply({"params": {"kernel": kernel}}, jnp.asarray(X, jnp.bfloat16)).dtype == jnp.bfloat16


def test_parameters_are_born_with_their_axes():
    boxed = jax.eval_shape(Linear(5, ("embed", "mlp")).init, jax.random.key(0), jnp.asarray(X))["params"]
    assert boxed["kernel"].names == ("embed", "mlp") and boxed["bias"].names == ("mlp",)


def test_embedding_looks_up_rows():
    table = RNG.standard_normal((6, 8)).astype(np.float32)
    ids = jnp.array([[5, 0], [2, 2]])
    module = Embedding(6, 8, ("vocab", "embed"))
    np.testing.assert_array_equal(
        module.apply({"params": {"embedding": jnp.asarray(table)}}, ids), table[np.asarray(ids)]
    )
    np.testing.assert_array_equal(
        module.apply({"params": {"embedding": jnp.asarray(table)}}, method=Embedding.table), table
    )


def test_the_two_gelus():
    x = np.linspace(-4, 4, 41).astype(np.float32)
    erf = x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    tanh = x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(gelu_erf(jnp.asarray(x)), erf, atol=1e-6)
    np.testing.assert_allclose(gelu_tanh(jnp.asarray(x)), tanh, atol=1e-6)
    assert np.abs(erf - tanh).max() > 1e-4  # otherwise this test could not tell them apart
