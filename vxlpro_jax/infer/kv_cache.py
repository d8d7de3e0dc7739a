"""Allocation of the key/value cache.

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
