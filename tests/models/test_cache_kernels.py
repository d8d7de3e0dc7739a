"""The kernels that read a cache, interpreted on a CPU, against the plain form; and which programs have them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas

from vxlpro_jax.models import cache_kernels
from vxlpro_jax.models.attention import attend, attend_stored
from vxlpro_jax.models.cache_kernels import can_read, read_on_gpu, read_on_tpu
from vxlpro_jax.parallel.mesh import make_mesh

RNG = np.random.default_rng(0)
LAYERS, LAYER = 3, 1


@pytest.fixture
def interpreted(monkeypatch):
    """Small blocks, so that small rows have several, and few programs, so that each reads several of them."""
    monkeypatch.setattr(pallas, "pallas_call", partial(pallas.pallas_call, interpret=True))
    for name, size in (
        *(("GPU_ROWS", 32), ("GPU_KEYS", 32), ("GPU_PROGRAMS", 8)),
        *(("TPU_ROWS", 32), ("TPU_KEYS", 128)),
    ):
        monkeypatch.setattr(cache_kernels, name, size)


def cache_of(batch, length, num_heads, num_kv_heads, slots, width=16, dtype=jnp.float32):
    """Queries, one layer's keys and values, and which are valid: holes in one row, none of the first 40 in another."""
    q, k, v = (
        jnp.asarray(RNG.standard_normal((batch, *shape, width)), dtype)
        for shape in ((length, num_heads), (slots, num_kv_heads), (slots, num_kv_heads))
    )
    valid = RNG.random((batch, slots)) < 0.7
    valid[-1, :40] = False
    return 2 * q, k, v, jnp.asarray(valid)


def stacked(x):
    """The layer among others that a reader must not touch."""
    return jnp.full((LAYERS, *x.shape), jnp.nan, x.dtype).at[LAYER].set(x)


# A piece in the middle; at the start, where some queries see nothing; one token at the end.
CASES = {
    "middle": ((2, 9, 6, 2, 384), 100),
    "start": ((2, 40, 4, 2, 256), 0),
    "decode": ((2, 1, 16, 2, 384), 383),
}


@pytest.mark.parametrize("kernel", [read_on_gpu, read_on_tpu])
@pytest.mark.parametrize("case", CASES)
def test_values_equal_the_plain_form(kernel, case, interpreted):
    sizes, slot = CASES[case]
    q, k, v, valid = cache_of(*sizes)
    found = jax.jit(kernel)(q, stacked(k), stacked(v), jnp.int32(LAYER), valid, jnp.int32(slot))
    seen = np.asarray(valid)[:, None] & (np.arange(sizes[4]) <= slot + np.arange(sizes[1])[:, None])
    expected = np.where(seen.any(-1)[..., None, None], attend(q, k, v, valid, slot), 0)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.abs(expected).max() > 0.5


@pytest.mark.parametrize("kernel", [read_on_gpu, read_on_tpu])
def test_keys_that_no_query_may_see_are_not_computed(kernel, interpreted):
    """NaN in blocks wholly after the queries would show, were they computed."""
    q, k, v, valid = cache_of(1, 20, 4, 2, 384)
    expected = jax.jit(kernel)(q, k[None], v[None], jnp.int32(0), valid, jnp.int32(60))
    k, v = (x.at[:, 128:].set(jnp.nan) for x in (k, v))
    found = jax.jit(kernel)(q, k[None], v[None], jnp.int32(0), valid, jnp.int32(60))
    np.testing.assert_array_equal(found, expected)
    assert np.abs(np.asarray(expected)).max() > 0.1


def program_for(platform, kind, slots=4096, width=128, dtype=jnp.bfloat16, length=64):
    """The text of the program that attend_stored becomes."""
    numbers = jax.ShapeDtypeStruct((), jnp.int32)
    q = jax.ShapeDtypeStruct((1, length, 16, width), dtype)
    kept, valid = jax.ShapeDtypeStruct((4, 1, slots, 2, width), dtype), jax.ShapeDtypeStruct((1, slots), bool)
    with jax.sharding.use_abstract_mesh(make_mesh({"data": 1}).abstract_mesh):
        traced = jax.jit(partial(attend_stored, kind=kind)).trace(q, kept, kept, numbers, valid, numbers)
        return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("platform, call", [("tpu", "tpu_custom_call"), ("cuda", "__gpu$xla.gpu.triton")])
def test_a_platform_gets_its_kernel_only_when_asked(platform, call):
    for length in (64, 1):
        assert program_for(platform, "kernel", length=length).count(call) == 1
    for kind in ("auto", "xla"):
        assert call not in program_for(platform, kind)
    for unfit in ({"slots": 4096 + 64}, {"width": 96}, {"dtype": jnp.float32}):
        assert call not in program_for(platform, "kernel", **unfit)
    assert call not in program_for("cpu", "kernel")


def test_sizes_that_a_kernel_takes():
    kept = jnp.zeros((1, 1, 256, 2, 128), jnp.bfloat16)
    assert can_read(jnp.zeros((1, 1, 16, 128), jnp.bfloat16), kept)
    assert not can_read(jnp.zeros((1, 1, 16, 128), jnp.float16), kept)
