"""An empty cache: sizes per layer, head and slot, nothing valid; growing and going back keep what is held."""

import jax.numpy as jnp
import numpy as np

from tests.small_model import SMALL
from vxlpro_jax.infer.kv_cache import allocate, grow, rewind


def test_empty_cache():
    llm = SMALL.llm
    cache = allocate(llm, 3, 10, jnp.bfloat16)
    assert cache.keys.shape == cache.values.shape == (llm.num_layers, 3, 10, llm.num_kv_heads, llm.head_dim)
    assert cache.keys.dtype == cache.values.dtype == jnp.bfloat16
    assert cache.valid.shape == (3, 10) and not cache.valid.any()
    assert int(cache.next_slot) == 0


def test_growing_and_going_back():
    cache = allocate(SMALL.llm, 2, 4, jnp.float32)
    rows = jnp.array([[True, False, True, True], [True, True, True, True]])
    cache = cache._replace(keys=cache.keys + 1, values=cache.values + 2, valid=rows, next_slot=jnp.int32(4))
    assert grow(cache, 3) is cache
    wide = grow(cache, 7)
    assert wide.keys.shape[2] == wide.values.shape[2] == wide.valid.shape[1] == 7 and int(wide.next_slot) == 4
    np.testing.assert_array_equal(wide.keys[:, :, :4], cache.keys)
    np.testing.assert_array_equal(wide.values[:, :, :4], cache.values)
    np.testing.assert_array_equal(wide.valid, np.pad(rows, ((0, 0), (0, 3))))
    back = rewind(wide, 2)
    assert int(back.next_slot) == 2
    np.testing.assert_array_equal(back.valid[:, :4], rows & np.array([True, True, False, False]))
