"""Attention over long rows in blocks of queries and keys, with a running softmax: forward and gradient.

Nothing of the size queries x keys is in memory: scores and masks exist for one block of queries against one block of
keys, and blocks that lie wholly after the queries are not computed.

Source: SPEC 9.8 for the computation; the running softmax is that of FlashAttention (arXiv 2205.14135, 2307.08691).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Bool, Float, Int

# Scores of one block of queries and keys are 32 MiB at 16 heads; smaller ones leave a matrix unit idle.
QUERY_BLOCK = 512
KEY_BLOCK = 1024
LONE_KEY_BLOCK = 65_536  # for a single query (decoding): its scores are few, and each block costs a loop's step


def attend_in_blocks(
    q_BLNH: Float[Array, "B L N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKH: Float[Array, "B S K H"],
    key_valid: Bool[Array, "B S"] | None,
    first_slot: Int[Array, ""] | int | None,
) -> Float[Array, "B L N H"]:
    """models/attention.py attend in blocks; differentiable in q, k and v. A query that sees nothing gets zeros."""
    if key_valid is None:
        key_valid = jnp.ones(k_BSKH.shape[:2], bool)
    if first_slot is None:
        first_slot = k_BSKH.shape[1]  # later than every key
    return _attend(q_BLNH, k_BSKH, v_BSKH, key_valid, jnp.asarray(first_slot, jnp.int32))


def read_in_blocks(
    q_BLNH: Float[Array, "B L N H"],
    keys: Float[Array, "layers B S K H"],
    values: Float[Array, "layers B S K H"],
    layer: Int[Array, ""],
    key_valid: Bool[Array, "B S"],
    first_slot: Int[Array, ""],
) -> Float[Array, "B L N H"]:
    """The same from one layer of stacked keys and values, which are sliced block by block and never copied whole."""
    return _forward(q_BLNH, keys, values, layer, key_valid, first_slot)[0]


@jax.custom_vjp
def _attend(q, k, v, key_valid, first_slot):
    return _forward(q, k[None], v[None], jnp.int32(0), key_valid, first_slot)[0]


def _attend_and_save(q, k, v, key_valid, first_slot):
    out, log_sum = _forward(q, k[None], v[None], jnp.int32(0), key_valid, first_slot)
    return out, (q, k, v, key_valid, first_slot, out, log_sum)


def _sizes(length: int, num_keys: int) -> tuple[int, int]:
    return min(QUERY_BLOCK, length), min(LONE_KEY_BLOCK if length == 1 else KEY_BLOCK, num_keys)


def _start(block, size: int, length: int):
    """Where a block begins. The last one is moved back to end with the row, so that every block has `size` rows."""
    return jnp.minimum(block * size, length - size)


def _take(x, start, size: int):
    return jax.lax.dynamic_slice_in_dim(x, start, size, axis=1)


def _put(whole, part, start, add: bool = False):
    part = part.astype(whole.dtype)
    if add:
        part = part + _take(whole, start, part.shape[1])
    return jax.lax.dynamic_update_slice_in_dim(whole, part, start, axis=1)


def _as_stored(x):
    """Pins the order of axes in memory. Without it XLA for GPUs turns the whole cache round for the products, and back:
    a second cache."""
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))


def _grouped(x_BLN, num_kv_heads: int):
    """[B, L, N, ...] -> [B, K, R, L, ...]: the R query heads of one key head stand together."""
    batch, length, num_heads = x_BLN.shape[:3]
    split = x_BLN.reshape(batch, length, num_kv_heads, num_heads // num_kv_heads, *x_BLN.shape[3:])
    return jnp.moveaxis(split, 1, 3)


def _flat(x_BKRL):
    """The way back: [B, K, R, L, ...] -> [B, L, N, ...]."""
    back = jnp.moveaxis(x_BKRL, 3, 1)
    return back.reshape(*back.shape[:2], -1, *back.shape[4:])


def _product(pattern: str, *factors):
    return jnp.einsum(pattern, *factors, preferred_element_type=jnp.float32)


def _logits(q_BKRLH, k_BSKH, valid_BS, query_slots_L, key_slots_S):
    """float32 [B, K, R, L, S] of one block; -inf where the query does not see the key."""
    seen = valid_BS[:, None, :] & (key_slots_S <= query_slots_L[:, None])
    scaled = _product("BKRLH,BSKH->BKRLS", q_BKRLH, k_BSKH) * q_BKRLH.shape[-1] ** -0.5
    return jnp.where(seen[:, None, None], scaled, -jnp.inf)


def _forward(q, keys, values, layer, key_valid, first_slot):
    """(out [B, L, N, H], log of the softmax's sum: float32 [B, L, N], inf where a query sees nothing)."""
    length, (num_keys, num_kv_heads) = q.shape[1], keys.shape[2:4]
    query_size, key_size = _sizes(length, num_keys)

    def read(block, state, asked, query_slots):
        highest, total, mixed = state
        start = _start(block, key_size, num_keys)
        size = (1, *keys.shape[1:2], key_size, *keys.shape[3:])
        k, v = (
            _as_stored(jax.lax.dynamic_slice(stored, (layer, 0, start, 0, 0), size))[0].astype(q.dtype)
            for stored in (keys, values)
        )
        slots = start + jnp.arange(key_size)
        valid = _take(key_valid, start, key_size) & (slots >= block * key_size)
        logits = _logits(asked, k, valid, query_slots, slots)
        higher = jnp.maximum(highest, logits.max(-1))
        base = jnp.where(jnp.isfinite(higher), higher, 0)
        weights, shrink = jnp.exp(logits - base[..., None]), jnp.exp(highest - base)
        more = _product("BKRLS,BSKH->BKRLH", weights.astype(q.dtype), v)
        return higher, total * shrink + weights.sum(-1), mixed * shrink[..., None] + more

    def answer(block, done):
        start = _start(block, query_size, length)
        asked = _grouped(_take(q, start, query_size), num_kv_heads)
        query_slots = first_slot + start + jnp.arange(query_size)
        num_seen = jnp.clip(query_slots[-1] + 1, 0, num_keys)
        nothing = jnp.zeros(asked.shape[:-1], jnp.float32)
        highest, total, mixed = jax.lax.fori_loop(
            *(0, -(-num_seen // key_size), partial(read, asked=asked, query_slots=query_slots)),
            (nothing - jnp.inf, nothing, jnp.zeros(asked.shape, jnp.float32)),
        )
        sees = total > 0
        total = jnp.where(sees, total, 1)
        parts = (mixed / total[..., None], jnp.where(sees, highest + jnp.log(total), jnp.inf))
        return tuple(_put(whole, _flat(part), start) for whole, part in zip(done, parts, strict=True))

    nothing = (jnp.zeros_like(q), jnp.zeros(q.shape[:3], jnp.float32))
    return jax.lax.fori_loop(0, -(-length // query_size), answer, nothing)


def _backward(saved, d_out):
    q, k, v, key_valid, first_slot, out, log_sum = saved
    length, num_keys, num_kv_heads = q.shape[1], k.shape[1], k.shape[2]
    query_size, key_size = _sizes(length, num_keys)
    num_blocks = -(-length // query_size)
    spread = (d_out.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1)

    def ask(block, state, k_part, v_part, valid, slots):
        dq, dk, dv = state
        start = _start(block, query_size, length)
        rows = start + jnp.arange(query_size)
        asked, told, log_total, mean = (
            _grouped(_take(x, start, query_size), num_kv_heads) for x in (q, d_out, log_sum, spread)
        )
        weights = jnp.exp(_logits(asked, k_part, valid, first_slot + rows, slots) - log_total[..., None])
        weights = jnp.where((rows >= block * query_size)[:, None], weights, 0)  # the others had their turn
        wanted = _product("BKRLH,BSKH->BKRLS", told, v_part)
        d_logits = weights * (wanted - mean[..., None]) * q.shape[-1] ** -0.5
        dv = dv + _product("BKRLS,BKRLH->BSKH", weights.astype(q.dtype), told)
        dk = dk + _product("BKRLS,BKRLH->BSKH", d_logits.astype(q.dtype), asked)
        more = _product("BKRLS,BSKH->BKRLH", d_logits.astype(q.dtype), k_part)
        return _put(dq, _flat(more), start, add=True), dk, dv

    def tell(block, state):
        dq, dk, dv = state
        start = _start(block, key_size, num_keys)
        slots = start + jnp.arange(key_size)
        k_part, v_part = (_take(x, start, key_size) for x in (k, v))
        valid = _take(key_valid, start, key_size) & (slots >= block * key_size)
        first = jnp.clip((block * key_size - first_slot) // query_size, 0, num_blocks)
        nothing = jnp.zeros(k_part.shape, jnp.float32)
        dq, dk_part, dv_part = jax.lax.fori_loop(
            *(first, num_blocks, partial(ask, k_part=k_part, v_part=v_part, valid=valid, slots=slots)),
            (dq, nothing, nothing),
        )
        return dq, _put(dk, dk_part, start, add=True), _put(dv, dv_part, start, add=True)

    zeros = tuple(jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))
    gradients = jax.lax.fori_loop(0, -(-num_keys // key_size), tell, zeros)
    return *(given.astype(x.dtype) for given, x in zip(gradients, (q, k, v), strict=True)), None, None


_attend.defvjp(_attend_and_save, _backward)
