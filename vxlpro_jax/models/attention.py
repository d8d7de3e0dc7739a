"""Scaled dot-product attention with grouped query heads: one interface, a plain form, one in blocks of keys, kernels.

Source: SPEC 3 and 9.8: softmax in float32, cast back to the working type.
Differs: long rows are read in blocks (models/block_attention.py), so that scores of all queries with all keys are never
in memory; equal to the plain form up to rounding. So are the kernels of GPUs and TPUs (models/library_kernels.py,
models/cache_kernels.py), which models/kernel_check.py compares with it on the device at hand.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vxlpro_jax.models.block_attention import LONE_KEY_BLOCK, attend_in_blocks, read_in_blocks
from vxlpro_jax.models.cache_kernels import can_read, read_on_gpu, read_on_tpu
from vxlpro_jax.models.library_kernels import attend_on_gpu, attend_on_tpu
from vxlpro_jax.parallel.axes import Rules, divides, on_pieces

AttentionKind = Literal["auto", "xla", "kernel"]
"""Who computes attention. "auto": JAX's own kernels where there are any for the platform, the type and the lengths (the
encoder's), else XLA. "xla": XLA everywhere. "kernel": as "auto", and a cache is read by models/cache_kernels.py, which
nobody has run on a device."""

# Up to so many keys the scores are small, and one matrix product is faster than many.
PLAIN_LEN = 1024
LONE_PLAIN_LEN = LONE_KEY_BLOCK  # for a single query
CPU_SCORES = 2**22  # float32 scores beyond which a CPU takes a head at a time: 16 MiB, half of a cache of today
KERNEL_LEN = 256  # below it a kernel's padding costs more than the few scores that XLA writes
KERNEL_TYPES = (jnp.bfloat16, jnp.float16)


def attend(
    q_BLNH: Float[Array, "B L N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKH: Float[Array, "B S K H"],
    key_valid: Bool[Array, "B S"] | None = None,
    first_slot: Int[Array, ""] | int | None = None,
) -> Float[Array, "B L N H"]:
    """softmax(q k / sqrt(H)) v; query head n reads key head n // (N / K).

    key_valid True = the key may be seen (None: all). first_slot: the slot of the first query; a query sees its own and
    earlier slots (None: all). What a query gets that sees nothing has no meaning, but is finite.
    """
    if _is_short(q_BLNH, k_BSKH.shape[1]):
        return _attend_shortly(q_BLNH, k_BSKH, v_BSKH, key_valid, first_slot)
    return attend_in_blocks(q_BLNH, k_BSKH, v_BSKH, key_valid, first_slot)


def attend_to_all(
    q_BLNH: Float[Array, "B L N H"],
    k_BLNH: Float[Array, "B L N H"],
    v_BLNH: Float[Array, "B L N H"],
    names: tuple[str | None, ...],
    rules: Rules,
    kind: AttentionKind,
) -> Float[Array, "B L N H"]:
    """`attend` of every query to every key, which kernels on GPUs and TPUs compute: what the encoder asks for.

    names: logical axes of the three. Under a mesh each device runs the kernel on its own rows and heads; where the mesh
    does not divide them, XLA computes. CPUs keep `attend`. The platform is chosen when the program is lowered.
    """
    by_kernel = kind != "xla" and q_BLNH.dtype in KERNEL_TYPES and q_BLNH.shape[1] >= KERNEL_LEN
    if by_kernel and divides(q_BLNH.shape, names, rules):
        return on_pieces(_attend_by_platform, names, rules)(q_BLNH, k_BLNH, v_BLNH)
    return attend(q_BLNH, k_BLNH, v_BLNH)


def _on_platform(form_of: Callable[[Any], Any], *arrays):
    """form_of(the platform's own form of attention), applied to the arrays."""
    forms = {"tpu": attend_on_tpu, "cuda": attend_on_gpu, "default": attend}
    return jax.lax.platform_dependent(*arrays, **{name: form_of(form) for name, form in forms.items()})


# A gradient through platform_dependent itself would keep what any platform's form needs, plain scores among it. So the
# choice is made once forward and once backward, where the platform's form is computed again.
@jax.custom_vjp
def _attend_by_platform(q, k, v):
    return _on_platform(lambda form: form, q, k, v)


def _attend_and_keep(q, k, v):
    return _attend_by_platform(q, k, v), (q, k, v)


def _pull_back(kept, d_out):
    return _on_platform(lambda form: lambda q, k, v, told: jax.vjp(form, q, k, v)[1](told), *kept, d_out)


_attend_by_platform.defvjp(_attend_and_keep, _pull_back)


def attend_stored(
    q_BLNH: Float[Array, "B L N H"],
    keys: Float[Array, "layers B S K H"],
    values: Float[Array, "layers B S K H"],
    layer: Int[Array, ""],
    key_valid: Bool[Array, "B S"],
    first_slot: Int[Array, ""],
    kind: AttentionKind = "auto",
) -> Float[Array, "B L N H"]:
    """`attend` to one layer of a cache. In blocks and by kernels it is read where it lies, without a copy of the layer;
    not differentiable there. Kernels want arrays that lie on one device, whole."""
    asked = (q_BLNH, keys, values, layer, key_valid, first_slot)
    if kind == "kernel" and can_read(q_BLNH, keys):
        return jax.lax.platform_dependent(*asked, tpu=read_on_tpu, cuda=read_on_gpu, default=_read_by_xla)
    return _read_by_xla(*asked)


def _read_by_xla(q_BLNH, keys, values, layer, key_valid, first_slot):
    if _is_short(q_BLNH, keys.shape[2]):
        k, v = (jax.lax.dynamic_index_in_dim(kept, layer, keepdims=False) for kept in (keys, values))
        return _attend_shortly(q_BLNH, k.astype(q_BLNH.dtype), v.astype(q_BLNH.dtype), key_valid, first_slot)
    return read_in_blocks(q_BLNH, keys, values, layer, key_valid, first_slot)


def _is_short(q_BLNH: Float[Array, "B L N H"], num_keys: int) -> bool:
    return num_keys <= (LONE_PLAIN_LEN if q_BLNH.shape[1] == 1 else PLAIN_LEN)


@jax.custom_vjp
def _attend_shortly(q, k, v, key_valid, first_slot):
    """The plain form; a head at a time on a CPU with many scores, where no gradient is asked for."""
    given = (q, k, v, key_valid, first_slot)
    if q.shape[0] * q.shape[1] * q.shape[2] * k.shape[1] < CPU_SCORES:
        return _attend_plainly(*given)
    return jax.lax.platform_dependent(*given, cpu=_attend_by_head, default=_attend_plainly)


def _attend_plainly_and_keep(q, k, v, key_valid, first_slot):
    return jax.vjp(lambda q, k, v: _attend_plainly(q, k, v, key_valid, first_slot), q, k, v)


_attend_shortly.defvjp(_attend_plainly_and_keep, lambda pull_back, d_out: (*pull_back(d_out), None, None))


def _attend_by_head(q_BLNH, k_BSKH, v_BSKH, key_valid, first_slot):
    """The same, one row and key head after the other: their scores are made, and read, in the processor's cache."""
    (batch, length, _, head_dim), (num_keys, num_kv_heads) = q_BLNH.shape, k_BSKH.shape[1:3]
    q = q_BLNH.reshape(batch, length, num_kv_heads, -1, head_dim).swapaxes(1, 2)
    q = q.reshape(batch * num_kv_heads, 1, length, -1, head_dim)
    k, v = (x.swapaxes(1, 2).reshape(-1, 1, num_keys, 1, head_dim) for x in (k_BSKH, v_BSKH))
    valid = None if key_valid is None else jnp.repeat(key_valid, num_kv_heads, axis=0)[:, None]

    def one(head):
        q, k, v, valid = head
        return _attend_plainly(q, k, v, valid, first_slot)

    mixed = jax.lax.map(one, (q, k, v, valid))
    mixed = mixed.reshape(batch, num_kv_heads, length, -1, head_dim).swapaxes(1, 2)
    return mixed.reshape(q_BLNH.shape)


def _attend_plainly(q_BLNH, k_BSKH, v_BSKH, key_valid, first_slot):
    batch, length, num_heads, head_dim = q_BLNH.shape
    num_kv_heads = k_BSKH.shape[2]
    q = q_BLNH.reshape(batch, length, num_kv_heads, num_heads // num_kv_heads, head_dim)
    logits = jnp.einsum("BLKRH,BSKH->BKRLS", q, k_BSKH).astype(jnp.float32) * head_dim**-0.5
    mask_BLS = _seen(key_valid, first_slot, length, k_BSKH.shape[1])
    if mask_BLS is not None:
        logits = jnp.where(mask_BLS[:, None, None], logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(q.dtype)
    return jnp.einsum("BKRLS,BSKH->BLKRH", weights, v_BSKH).reshape(q_BLNH.shape)


def _seen(key_valid, first_slot, length: int, num_keys: int):
    """bool [B or 1, L or 1, S], True = the query sees the key; None where all are seen."""
    seen = None if key_valid is None else key_valid[:, None, :]
    if first_slot is None:
        return seen
    earlier = jnp.arange(num_keys)[None, None, :] <= first_slot + jnp.arange(length)[None, :, None]
    return earlier if seen is None else seen & earlier
