"""Attention against a loop over heads in numpy."""

import jax
import jax.numpy as jnp
import numpy as np

from vxlpro_jax.models.attention import attend, causal_mask

ATTEND = jax.jit(attend)
RNG = np.random.default_rng(0)
Q = RNG.standard_normal((2, 3, 6, 5)).astype(np.float32)
K = RNG.standard_normal((2, 4, 2, 5)).astype(np.float32)
V = RNG.standard_normal((2, 4, 2, 5)).astype(np.float32)


def reference(mask):
    out = np.zeros(Q.shape)
    for b, head in np.ndindex(2, 6):
        logits = Q[b, :, head] @ K[b, :, head // 3].T / np.sqrt(5)
        weights = np.where(mask[b], np.exp(logits), 0)
        out[b, :, head] = weights / weights.sum(-1, keepdims=True) @ V[b, :, head // 3]
    return out


def test_each_key_head_serves_neighbouring_query_heads():
    np.testing.assert_allclose(ATTEND(Q, K, V), reference(np.ones((2, 3, 4), bool)), atol=1e-5)


def test_mask_true_means_seen():
    mask = RNG.random((2, 3, 4)) < 0.5
    mask[..., 0] = True
    np.testing.assert_allclose(ATTEND(Q, K, V, mask), reference(mask), atol=1e-5)


def test_a_query_that_sees_nothing_stays_finite():
    assert np.isfinite(ATTEND(Q, K, V, np.zeros((2, 3, 4), bool))).all()


def test_softmax_is_float32_under_half_precision():
    """Sixty equal keys: in bfloat16 the weights' sum would be off by far more than their rounding."""
    half = [jnp.asarray(x, jnp.bfloat16) for x in (Q, np.repeat(K[:, :1], 60, 1), np.ones((2, 60, 2, 5)))]
    out = ATTEND(*half)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float32), 1, atol=2**-7)


def test_causal_mask_counts_slots():
    valid = np.array([[True, True, False, True, True], [True, False, True, True, False]])
    mask = np.asarray(jax.jit(causal_mask, static_argnums=2)(valid, jnp.int32(2), 2))
    assert mask.shape == (2, 2, 5)
    for row, query, key in np.ndindex(mask.shape):
        assert mask[row, query, key] == (valid[row, key] and key <= 2 + query)
