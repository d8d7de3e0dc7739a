"""Attention of every query to every key by the kernels that JAX brings for GPUs and TPUs: scores never leave the chip.

Rows are padded to a whole number of blocks, and the padding is told apart by segment ids: a patch sees its own segment.
Both are differentiable, by the library's own backward kernels. float32 is no type for them: they multiply it with the
precision of a shorter type, whatever jax_default_matmul_precision says.

Source: SPEC 3 for the computation; jax.experimental.pallas.ops, after FlashAttention (arXiv 2205.14135, 2307.08691).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

LANES = 128  # a TPU's registers are so wide; blocks of keys are a multiple of it
TPU_BLOCK = 384  # 729 patches become 768: two blocks of queries, each against one of all keys
GPU_BLOCK = 64  # with heads of up to 128, tiles that fit the 99 KiB of shared memory of GPUs smaller than an A100
GPU_BACKWARD_BLOCK = 32


def attend_on_tpu(
    q_BLNH: Float[Array, "B L N H"], k_BLNH: Float[Array, "B L N H"], v_BLNH: Float[Array, "B L N H"]
) -> Float[Array, "B L N H"]:
    """softmax(q k / sqrt(H)) v with the library's FlashAttention for TPUs."""
    from jax.experimental.pallas.ops.tpu import flash_attention as library  # slow to import, and seldom needed

    length, scale = q_BLNH.shape[1], q_BLNH.shape[-1] ** -0.5
    rows = -(-length // LANES) * LANES
    if rows > TPU_BLOCK:
        rows = -(-rows // TPU_BLOCK) * TPU_BLOCK
    asked, seen = min(TPU_BLOCK, rows), rows if rows <= 2 * TPU_BLOCK else TPU_BLOCK
    sizes = library.BlockSizes(
        *(asked, seen, seen, 1),
        *(asked, min(TPU_BLOCK, rows), min(TPU_BLOCK, rows), asked),
        *(min(TPU_BLOCK, rows), min(TPU_BLOCK, rows), asked),
    )
    q, k, v = (_padded(x, rows).transpose(0, 2, 1, 3) for x in (q_BLNH, k_BLNH, v_BLNH))
    segments = _segments(q_BLNH, rows)
    pair = library.SegmentIds(segments, segments)
    out = library.flash_attention(q, k, v, segment_ids=pair, sm_scale=scale, block_sizes=sizes)
    return out.transpose(0, 2, 1, 3)[:, :length]


def attend_on_gpu(
    q_BLNH: Float[Array, "B L N H"], k_BLNH: Float[Array, "B L N H"], v_BLNH: Float[Array, "B L N H"]
) -> Float[Array, "B L N H"]:
    """The same with the library's Pallas kernel for NVIDIA GPUs (Triton)."""
    from jax.experimental.pallas.ops.gpu import attention as library  # slow to import, and seldom needed

    length, scale = q_BLNH.shape[1], q_BLNH.shape[-1] ** -0.5
    rows = -(-length // GPU_BLOCK) * GPU_BLOCK
    sizes = library.BlockSizes(*(GPU_BLOCK,) * 2, *(GPU_BACKWARD_BLOCK,) * 4)
    q, k, v = (_padded(x, rows) for x in (q_BLNH, k_BLNH, v_BLNH))
    out = library.mha(q, k, v, _segments(q_BLNH, rows), scale, block_sizes=sizes)
    return out[:, :length]


def _padded(x_BLNH, rows: int):
    return jnp.pad(x_BLNH, ((0, 0), (0, rows - x_BLNH.shape[1]), (0, 0), (0, 0)))


def _segments(x_BLNH, rows: int):
    """int32 [B, rows]: 1 where a row of x stands, 0 in the padding."""
    real = (jnp.arange(rows) < x_BLNH.shape[1]).astype(jnp.int32)
    return jnp.broadcast_to(real, (x_BLNH.shape[0], rows))
