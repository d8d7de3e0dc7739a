"""Attention against a loop over heads in numpy; which form reads which rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vxlpro_jax.models import attention
from vxlpro_jax.models.attention import attend, attend_stored

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


def test_a_query_sees_valid_keys_in_its_own_and_earlier_slots():
    valid = jnp.array([[True, True, False, True], [True, False, True, True]])
    mask = np.zeros((2, 3, 4), bool)
    for row, query, key in np.ndindex(mask.shape):
        mask[row, query, key] = valid[row, key] and key <= 1 + query
    np.testing.assert_allclose(ATTEND(Q, K, V, valid, 1), reference(mask), atol=1e-5)
    everywhere = np.broadcast_to(np.asarray(valid)[:, None], mask.shape)
    np.testing.assert_allclose(ATTEND(Q, K, V, valid), reference(everywhere), atol=1e-5)


def test_a_query_that_sees_nothing_stays_finite():
    assert np.isfinite(ATTEND(Q, K, V, jnp.zeros((2, 4), bool))).all()


def test_softmax_is_float32_under_half_precision():
    """Sixty equal keys: in bfloat16 the weights' sum would be off by far more than their rounding."""
    half = [jnp.asarray(x, jnp.bfloat16) for x in (Q, np.repeat(K[:, :1], 60, 1), np.ones((2, 60, 2, 5)))]
    out = ATTEND(*half)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float32), 1, atol=2**-7)


@pytest.mark.parametrize("valid", [None, jnp.array([[True, True, False, True], [True, False, True, True]])])
def test_a_head_at_a_time_on_a_cpu(monkeypatch, valid):
    """Many scores: only a CPU takes them in turn, and a gradient is that of the plain form."""

    given = [jnp.asarray(x) for x in (Q, K, V)]

    def run():  # a new function each time: jit would remember the last one
        return jax.jit(lambda q, k, v: attend(q, k, v, valid, None if valid is None else 1))

    def lowered(platform):
        return run().trace(*given).lower(lowering_platforms=(platform,)).as_text()

    def gradient():
        inner = run()
        return jax.grad(lambda *given: jnp.sin(inner(*given)).sum(), (0, 1, 2))(*given)

    plain, slope = run()(*given), gradient()
    assert "stablehlo.while" not in lowered("cpu")
    monkeypatch.setattr(attention, "CPU_SCORES", Q[..., 0].size * K.shape[1])
    assert "stablehlo.while" in lowered("cpu") and "stablehlo.while" not in lowered("tpu")
    np.testing.assert_allclose(run()(*given), plain, atol=1e-6)
    for one, other in zip(gradient(), slope, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    "num_queries, plain_len, lone_plain_len, in_blocks",
    [(3, 3, 9, True), (3, 4, 2, False), (1, 3, 4, False), (1, 4, 3, True)],
)
def test_a_layer_of_a_cache_is_read_like_loose_keys(monkeypatch, num_queries, plain_len, lone_plain_len, in_blocks):
    """On both sides of the lengths beyond which keys are read in blocks: several queries, and one alone."""
    monkeypatch.setattr(attention, "PLAIN_LEN", plain_len)
    monkeypatch.setattr(attention, "LONE_PLAIN_LEN", lone_plain_len)
    valid = jnp.array([[True, True, True, False], [True, False, True, True]])
    keys, values = (jnp.stack([jnp.full_like(x, 9), x, jnp.full_like(x, 7)]) for x in (K, V))
    asked = (jnp.asarray(Q[:, :num_queries]), keys, values, jnp.int32(1), valid, jnp.int32(1))
    mask = np.asarray(valid)[:, None] & (np.arange(4) <= 1 + np.arange(3)[:, None])
    np.testing.assert_allclose(attend_stored(*asked), reference(mask)[:, :num_queries], atol=1e-5)
    assert ("while" in str(jax.make_jaxpr(lambda *x: attend_stored(*x))(*asked))) == in_blocks
