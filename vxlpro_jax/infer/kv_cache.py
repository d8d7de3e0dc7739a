"""The key/value cache: allocation, growth, and going back to an earlier length.

Source: SPEC 9.8.
"""

import jax.numpy as jnp
from jax.typing import DTypeLike

from vxlpro_jax.models.part_configs import Qwen2Config
from vxlpro_jax.models.qwen2 import KVCache


def allocate(config: Qwen2Config, batch: int, length: int, dtype: DTypeLike) -> KVCache:
    """An empty cache with room for `length` tokens in each of `batch` rows."""
    shape = (config.num_layers, batch, length, config.num_kv_heads, config.head_dim)
    return KVCache(
        keys=jnp.zeros(shape, dtype),
        values=jnp.zeros(shape, dtype),
        valid=jnp.zeros((batch, length), bool),
        next_slot=jnp.int32(0),
    )


def rewind(cache: KVCache, num_slots: int) -> KVCache:
    """The cache as it was when it held the first num_slots slots: what comes next is written after them."""
    held = jnp.arange(cache.valid.shape[1]) < num_slots
    return cache._replace(valid=cache.valid & held, next_slot=jnp.int32(num_slots))


def grow(cache: KVCache, length: int) -> KVCache:
    """The cache with room for `length` tokens, when it has less."""
    more = max(0, length - cache.valid.shape[1])
    if not more:
        return cache
    room = ((0, 0), (0, 0), (0, more), (0, 0), (0, 0))
    return cache._replace(
        keys=jnp.pad(cache.keys, room),
        values=jnp.pad(cache.values, room),
        valid=jnp.pad(cache.valid, ((0, 0), (0, more))),
    )
