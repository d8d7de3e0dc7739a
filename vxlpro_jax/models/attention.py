"""Scaled dot-product attention with grouped query heads, in its plain form.

Source: SPEC 3 and 9.8: softmax in float32, cast back to the working type.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def attend(
    q_BLNH: Float[Array, "B L N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKH: Float[Array, "B S K H"],
    mask_BLS: Bool[Array, "B L S"] | None = None,
) -> Float[Array, "B L N H"]:
    """softmax(q k / sqrt(H)) v; query head n reads key head n // (N / K). mask True = the query sees the key (None:
    all)."""
    batch, length, num_heads, head_dim = q_BLNH.shape
    num_kv_heads = k_BSKH.shape[2]
    q = q_BLNH.reshape(batch, length, num_kv_heads, num_heads // num_kv_heads, head_dim)
    logits = jnp.einsum("BLKRH,BSKH->BKRLS", q, k_BSKH).astype(jnp.float32) * head_dim**-0.5
    if mask_BLS is not None:
        logits = jnp.where(mask_BLS[:, None, None], logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(q.dtype)
    return jnp.einsum("BKRLS,BSKH->BLKRH", weights, v_BSKH).reshape(q_BLNH.shape)


def causal_mask(key_valid: Bool[Array, "B S"], first_slot: Int[Array, ""] | int, length: int) -> Bool[Array, "B L S"]:
    """What queries in slots first_slot ... first_slot + length - 1 see: valid keys in their own and earlier slots."""
    query_slots = first_slot + jnp.arange(length)
    return key_valid[:, None, :] & (jnp.arange(key_valid.shape[1])[None, None, :] <= query_slots[None, :, None])
