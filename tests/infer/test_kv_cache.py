"""An empty cache: sizes per layer, head and slot, nothing valid, no memory of a wrong type."""

import jax.numpy as jnp

from tests.small_model import SMALL
from vxlpro_jax.infer.kv_cache import allocate


def test_empty_cache():
    llm = SMALL.llm
    cache = allocate(llm, 3, 10, jnp.bfloat16)
    assert cache.keys.shape == cache.values.shape == (llm.num_layers, 3, 10, llm.num_kv_heads, llm.head_dim)
    assert cache.keys.dtype == cache.values.dtype == jnp.bfloat16
    assert cache.valid.shape == (3, 10) and not cache.valid.any()
    assert int(cache.next_slot) == 0
