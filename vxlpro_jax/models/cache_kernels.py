"""Attention to one layer of a key/value cache by kernels of our own: one for GPUs (Triton), one for TPUs (Mosaic).

The kernels of libraries take a whole array of keys, and queries that start where the keys start. Here the keys are a
layer of a stack and the queries stand anywhere in it: the kernels are told layer and first slot as numbers and read the
stack where it lies. Both keep a running softmax in float32 over blocks of keys and stop at the last slot that a query
of their block may see. The queries that share a key head stand together as rows of one matrix, so that a decoding step
reads every key once.

**Compiled for their targets and compared with the plain form in interpret mode; never run on a device** (see
models/kernel_check.py). Not differentiable.

Source: SPEC 9.8 for the computation; the running softmax is that of FlashAttention (arXiv 2205.14135), the split of
the keys among programs and the merge by log-sum-exp that of its decoding (arXiv 2307.08691).
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float, Int

GPU_ROWS, GPU_KEYS = 128, 64  # queries and keys of one step: with heads of 128, tiles for an A100's shared memory
GPU_LEAST_ROWS = 16  # a tensor core's matrix is not smaller
GPU_PROGRAMS = 256  # about two for each multiprocessor; fewer blocks of rows share the keys among more programs
TPU_ROWS, TPU_KEYS = 512, 1024
TPU_LEAST_ROWS = 16  # two rows of a 16-bit type lie in one of eight sublanes
LANES = 128  # a TPU's registers are so wide
WIDTHS = (128, 256)
UNSEEN = -0.7 * float(jnp.finfo(jnp.float32).max)  # finite: differences of two such are no NaN


def can_read(q_BLNH: Float[Array, "B L N H"], keys: Float[Array, "layers B S K H"]) -> bool:
    """Whether both kernels take these sizes: heads that fill registers, a cache of whole blocks, types of 16 bits."""
    short = q_BLNH.dtype == keys.dtype and keys.dtype.itemsize == 2
    return short and keys.shape[-1] in WIDTHS and keys.shape[2] % LANES == 0


def _by_key_head(q_BLNH, num_kv_heads: int, rows: int):
    """[B, L, N, H] -> [B, K, rows, H]: query after query, its R heads side by side; zeros fill up the rows."""
    batch, length, num_heads, width = q_BLNH.shape
    split = q_BLNH.reshape(batch, length, num_kv_heads, num_heads // num_kv_heads, width).transpose(0, 2, 1, 3, 4)
    flat = split.reshape(batch, num_kv_heads, -1, width)
    return jnp.pad(flat, ((0, 0), (0, 0), (0, rows - flat.shape[2]), (0, 0)))


def _by_query(x_BKRH, length: int, num_heads: int):
    """The way back: [B, K, rows, H] -> [B, L, N, H]."""
    batch, num_kv_heads, _, width = x_BKRH.shape
    repeat = num_heads // num_kv_heads
    split = x_BKRH[:, :, : length * repeat].reshape(batch, num_kv_heads, length, repeat, width)
    return split.transpose(0, 2, 1, 3, 4).reshape(batch, length, num_heads, width)


def _num_rows(queries: int, least: int, most: int) -> tuple[int, int]:
    """(rows of a block, rows in all) for so many queries of one key head."""
    block = min(most, max(least, pl.next_power_of_2(queries)))
    return block, -(-queries // block) * block


def read_on_gpu(
    q_BLNH: Float[Array, "B L N H"],
    keys: Float[Array, "layers B S K H"],
    values: Float[Array, "layers B S K H"],
    layer: Int[Array, ""],
    key_valid: Bool[Array, "B S"],
    first_slot: Int[Array, ""],
) -> Float[Array, "B L N H"]:
    """models/attention.py attend_stored on an NVIDIA GPU. A query that sees nothing gets zeros.

    A program takes one block of rows of one key head, and one share of the keys; where there are few rows the keys are
    shared among many programs, whose results are merged.
    """
    from jax.experimental.pallas import triton

    batch, length, num_heads, width = q_BLNH.shape
    slots, num_kv_heads = keys.shape[2:4]
    repeat = num_heads // num_kv_heads
    block, rows = _num_rows(length * repeat, GPU_LEAST_ROWS, GPU_ROWS)
    heads, row_blocks = batch * num_kv_heads, rows // block
    shares = max(1, min(GPU_PROGRAMS // (heads * row_blocks), -(-slots // GPU_KEYS)))
    asked = _by_key_head(q_BLNH, num_kv_heads, rows).reshape(heads, rows, width)
    where = jnp.stack([layer, first_slot]).astype(jnp.int32)
    whole = pl.BlockSpec(memory_space=pl.ANY)
    out, log_sum = pl.pallas_call(
        partial(_gpu_kernel, repeat=repeat, length=length, num_kv_heads=num_kv_heads, shares=shares),
        grid=(row_blocks, shares, heads),
        in_specs=[whole, pl.BlockSpec((None, block, width), lambda row, share, head: (head, row, 0)), *[whole] * 3],
        out_specs=[
            pl.BlockSpec((None, None, block, width), lambda row, share, head: (share, head, row, 0)),
            pl.BlockSpec((None, None, block), lambda row, share, head: (share, head, row)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((shares, heads, rows, width), jnp.float32),
            jax.ShapeDtypeStruct((shares, heads, rows), jnp.float32),
        ],
        compiler_params=triton.CompilerParams(num_warps=8 if block == GPU_ROWS else 4, num_stages=2),
        name="read_cache",
    )(where, asked, keys, values, key_valid.astype(jnp.int8))
    weight = jnp.exp2(log_sum - log_sum.max(0))
    mixed = (out * weight[..., None]).sum(0) / weight.sum(0)[..., None]
    return _by_query(mixed.reshape(batch, num_kv_heads, rows, width), length, num_heads).astype(q_BLNH.dtype)


def _gpu_kernel(
    where_ref, q_ref, keys_ref, values_ref, valid_ref, out_ref, log_sum_ref, *, repeat, length, num_kv_heads, shares
):
    from jax.experimental.pallas import triton

    layer, first_slot = where_ref[0], where_ref[1]
    batch, head = lax.div(pl.program_id(2), num_kv_heads), lax.rem(pl.program_id(2), num_kv_heads)
    block, width = q_ref.shape
    slots = keys_ref.shape[2]
    rows = pl.program_id(0) * block + jnp.arange(block)
    query_slots = first_slot + lax.div(rows, repeat)
    last_query = jnp.minimum(lax.div((pl.program_id(0) + 1) * block - 1, repeat), length - 1)
    num_seen = jnp.clip(first_slot + last_query + 1, 0, slots)
    num_blocks = lax.div(num_seen + GPU_KEYS - 1, GPU_KEYS)
    blocks_each = lax.div(num_blocks + shares - 1, shares)
    first = pl.program_id(1) * blocks_each
    asked = q_ref[...]

    def read(key_block, state):
        highest, total, mixed = state
        start = key_block * GPU_KEYS
        key_slots = start + jnp.arange(GPU_KEYS)
        inside = key_slots < slots
        place = (layer, batch, pl.ds(start, GPU_KEYS), head)
        k = triton.load(keys_ref.at[(*place, slice(None))], mask=inside[:, None], other=0.0)
        v = triton.load(values_ref.at[(*place, slice(None))], mask=inside[:, None], other=0.0)
        valid = triton.load(valid_ref.at[batch, pl.ds(start, GPU_KEYS)], mask=inside, other=0)
        seen = (valid != 0)[None, :] & (key_slots[None, :] <= query_slots[:, None])
        logits = jnp.where(seen, triton.dot(asked, k.T) * (width**-0.5 * math.log2(math.e)), UNSEEN)
        higher = jnp.maximum(highest, logits.max(-1))
        weights = jnp.where(seen, jnp.exp2(logits - higher[:, None]), 0.0)
        shrink = jnp.exp2(highest - higher)
        more = triton.dot(weights.astype(v.dtype), v)
        return higher, total * shrink + weights.sum(-1), mixed * shrink[:, None] + more

    nothing = jnp.zeros((block,), jnp.float32)
    highest, total, mixed = lax.fori_loop(
        *(first, jnp.minimum(first + blocks_each, num_blocks), read),
        (nothing + UNSEEN, nothing, jnp.zeros((block, width), jnp.float32)),
    )
    total_or_one = jnp.where(total > 0, total, 1.0)
    out_ref[...] = mixed / total_or_one[:, None]
    log_sum_ref[...] = jnp.where(total > 0, highest + jnp.log2(total_or_one), UNSEEN)


def read_on_tpu(
    q_BLNH: Float[Array, "B L N H"],
    keys: Float[Array, "layers B S K H"],
    values: Float[Array, "layers B S K H"],
    layer: Int[Array, ""],
    key_valid: Bool[Array, "B S"],
    first_slot: Int[Array, ""],
) -> Float[Array, "B L N H"]:
    """models/attention.py attend_stored on a TPU. A query that sees nothing gets zeros.

    The grid's last axis runs over blocks of keys, one after another on the same core; what lies after the block's last
    query is neither computed nor fetched: its index stays at the last block that was.
    """
    from jax.experimental.pallas import tpu

    batch, length, num_heads, width = q_BLNH.shape
    slots, num_kv_heads = keys.shape[2:4]
    repeat = num_heads // num_kv_heads
    block, rows = _num_rows(length * repeat, TPU_LEAST_ROWS, TPU_ROWS)
    key_block = math.gcd(slots, TPU_KEYS)
    asked = _by_key_head(q_BLNH, num_kv_heads, rows)
    where = jnp.stack([layer, first_slot]).astype(jnp.int32)
    seen_by = partial(_last_key_block, block=block, key_block=key_block, repeat=repeat, length=length)

    def of_keys(row, part, where_ref):
        return jnp.minimum(part, seen_by(row, where_ref))

    def cache_index(b, row, part, where_ref):
        return where_ref[0], b, of_keys(row, part, where_ref), 0, 0

    rows_spec = pl.BlockSpec((None, num_kv_heads, block, width), lambda b, row, part, where_ref: (b, 0, row, 0))
    cache_spec = pl.BlockSpec((None, None, key_block, num_kv_heads, width), cache_index)
    valid_spec = pl.BlockSpec(
        (None, 1, key_block), lambda b, row, part, where_ref: (b, 0, of_keys(row, part, where_ref))
    )
    column = tpu.VMEM((num_kv_heads, block, LANES), jnp.float32)
    out = pl.pallas_call(
        partial(_tpu_kernel, repeat=repeat, seen_by=seen_by),
        grid_spec=tpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(batch, rows // block, slots // key_block),
            in_specs=[rows_spec, cache_spec, cache_spec, valid_spec],
            out_specs=rows_spec,
            scratch_shapes=[column, column, tpu.VMEM((num_kv_heads, block, width), jnp.float32)],
        ),
        out_shape=jax.ShapeDtypeStruct(asked.shape, asked.dtype),
        compiler_params=tpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        name="read_cache",
    )(where, asked, keys, values, key_valid.astype(jnp.int32)[:, None])
    return _by_query(out, length, num_heads)


def _last_key_block(row, where_ref, block, key_block, repeat, length):
    """The last block of keys that a block of rows sees any slot of."""
    last_query = jnp.minimum(lax.div((row + 1) * block - 1, repeat), length - 1)
    return lax.div(jnp.maximum(where_ref[1] + last_query, 0), key_block)


def _tpu_kernel(
    where_ref, q_ref, keys_ref, values_ref, valid_ref, out_ref, highest_ref, total_ref, mixed_ref, *, repeat, seen_by
):
    row, part = pl.program_id(1), pl.program_id(2)
    num_kv_heads, block, width = q_ref.shape
    key_block = keys_ref.shape[0]

    @pl.when(part == 0)
    def _start():
        highest_ref[...] = jnp.full(highest_ref.shape, UNSEEN, jnp.float32)
        total_ref[...] = jnp.zeros(total_ref.shape, jnp.float32)
        mixed_ref[...] = jnp.zeros(mixed_ref.shape, jnp.float32)

    @pl.when(part <= seen_by(row, where_ref))
    def _read():
        rows = row * block + lax.broadcasted_iota(jnp.int32, (block, key_block), 0)
        key_slots = part * key_block + lax.broadcasted_iota(jnp.int32, (block, key_block), 1)
        seen = (valid_ref[...] != 0) & (key_slots <= where_ref[1] + lax.div(rows, repeat))
        for head in range(num_kv_heads):
            k, v = keys_ref[:, head, :], values_ref[:, head, :]
            product = lax.dot_general(q_ref[head], k, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
            logits = jnp.where(seen, product * width**-0.5, UNSEEN)
            highest = highest_ref[head]
            higher = jnp.maximum(highest, logits.max(-1, keepdims=True))
            weights = jnp.where(seen, jnp.exp(logits - higher[:, :1]), 0.0)
            shrink = jnp.exp(highest - higher)
            more = lax.dot(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
            highest_ref[head] = higher
            total_ref[head] = total_ref[head] * shrink + weights.sum(-1, keepdims=True)
            mixed_ref[head] = mixed_ref[head] * shrink[:, :1] + more

    @pl.when(part == pl.num_programs(2) - 1)
    def _end():
        total = total_ref[...][:, :, :1]
        out_ref[...] = (mixed_ref[...] / jnp.where(total > 0, total, 1.0)).astype(out_ref.dtype)
