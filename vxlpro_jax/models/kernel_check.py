"""Whether the attention kernels of the device at hand compute what XLA computes in float32: to be run where they run.

A kernel that was compiled for a device and never run there may be wrong in silence. So whoever loads a model on an
accelerator compares first (usable_kind), and `check_kernels` tells the errors.

Source: ours.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from vxlpro_jax.models.attention import AttentionKind, attend, attend_stored, attend_to_all
from vxlpro_jax.models.presets import VIDEO_XL_PRO_3B, VideoXLProConfig
from vxlpro_jax.parallel.axes import UNSHARDED

# Of a row of the result, against the usual row. Types of 16 bits round softmax weights and results by up to 1/256;
# gradients are differences of such. A key too few among 729, or zeros of the padding seen, is 0.03 or more.
ALLOWED_ERROR = 0.02
ALLOWED_GRADIENT_ERROR = 0.05
FRAMES = 2
SLOTS, LAYERS = 8192, 3  # of a cache
BORDER_WEIGHT = 30
KERNEL_CALLS = ("tpu_custom_call", "gpu.triton")  # what a kernel is called in a lowered program


class KernelCheck(NamedTuple):
    """One comparison. name: in CHECKS. by_kernel: False: the device has no kernel for it, XLA computes, and error is 0.
    error: the worst row's distance from float32, as a share of the usual row's length; allowed: the most that rounding
    explains; failure: what the compiler said, where it refused."""

    name: str
    by_kernel: bool
    error: float
    allowed: float
    failure: str = ""

    @property
    def holds(self) -> bool:
        return not self.failure and self.error <= self.allowed


def check_kernels(
    config: VideoXLProConfig = VIDEO_XL_PRO_3B,
    dtype: DTypeLike = jnp.bfloat16,
    names: Sequence[str] | None = None,
    slots: int = SLOTS,
    layers: int = LAYERS,
) -> list[KernelCheck]:
    """Compares every kernel (names: some of CHECKS) with XLA's float32 on jax's default device, at the sizes of config.

    slots, layers: of the cache that is read; 262,144 and 36 fill 9.7 GB at 3B, where places in it are no longer numbers
    of 32 bits. What does not hold is reported, not raised: see KernelCheck.holds.
    """
    cases = _cases(config, dtype, slots, layers)
    return [_checked(name, *cases[name]()) for name in names or CHECKS]


CHECKS = ("encode", "encode_gradient", "read_start", "read_piece", "decode")
"""What is compared: the encoder's attention, its gradient, the first and a later piece of a prompt, a token's step."""


def has_kernel(program: str) -> bool:
    """Whether a program, the text of what was lowered for a GPU or TPU, calls a kernel."""
    return any(call in program for call in KERNEL_CALLS)


def usable_kind(
    kind: AttentionKind, config: VideoXLProConfig, dtype: DTypeLike, training: bool = False
) -> AttentionKind:
    """`kind`, where the kernels that it means compute what they should on this device; "xla" and a warning elsewhere.

    Raises ValueError instead where "kernel" was asked for by name. Takes seconds on an accelerator, nothing on a CPU.
    """
    if kind == "xla":
        return kind
    names = ["encode", "encode_gradient"] if training else ["encode"]
    if kind == "kernel":
        names += ["read_start", "read_piece", "decode"]
    wrong = [check for check in check_kernels(config, dtype, names, SLOTS) if not check.holds]
    if not wrong:
        return kind
    told = "; ".join(
        f"{check.name}: " + (check.failure or f"off by {check.error:.3g}, {check.allowed} is rounding")
        for check in wrong
    )
    if kind == "kernel":
        raise ValueError(f"attention='kernel': kernels fail on this device ({told}): use attention='auto' or 'xla'")
    warnings.warn(f"attention kernels fail on this device ({told}): attention is left to XLA", stacklevel=3)
    return "xla"


def _cases(config: VideoXLProConfig, dtype: DTypeLike, slots: int, layers: int) -> dict[str, Callable]:
    """By name: what makes (a function of arrays, the function that it must equal, arrays, allowed error)."""
    vision, llm = config.vision, config.llm
    patches = (FRAMES, vision.grid_size**2, vision.num_heads, vision.dim // vision.num_heads)

    def by_kernel(q, k, v):
        return attend_to_all(q, k, v, (None,) * 4, UNSHARDED, "auto")

    def encode():
        return by_kernel, attend, _random(dtype, patches, patches, patches), ALLOWED_ERROR

    def encode_gradient():
        pulled = (lambda q, k, v, told, form=form: jax.vjp(form, q, k, v)[1](told) for form in (by_kernel, attend))
        return *pulled, _random(dtype, *(patches,) * 4), ALLOWED_GRADIENT_ERROR

    def read(length, first_slot):
        of_cache = (1, slots, llm.num_kv_heads, llm.head_dim)
        q, k, v = _random(dtype, (1, length, llm.num_heads, llm.head_dim), of_cache, of_cache)
        valid = jnp.asarray(np.random.default_rng(1).random((1, slots)) < 0.9).at[:, 0].set(True)
        # The last slot that is seen, and the first that is not: one key more or less among thousands must not drown.
        border = slice(first_slot + length - 1, first_slot + length + 1)
        v, valid = v.at[:, border].multiply(BORDER_WEIGHT), valid.at[:, border].set(True)

        def by_kernel(q, k, v, valid, slot):
            keys, values = (jnp.zeros((layers, *of_cache), x.dtype).at[-1].set(x) for x in (k, v))
            return attend_stored(q, keys, values, jnp.int32(layers - 1), valid, slot, "kernel")

        return by_kernel, attend, (q, k, v, valid, jnp.int32(first_slot)), ALLOWED_ERROR

    return {
        "encode": encode,
        "encode_gradient": encode_gradient,
        "read_start": lambda: read(min(512, slots), 0),
        "read_piece": lambda: read(min(512, slots // 2), slots * 5 // 8 + 3 - min(512, slots // 2)),
        "decode": lambda: read(1, slots - 3),
    }


def _random(dtype: DTypeLike, *shapes: tuple[int, ...]) -> tuple[jax.Array, ...]:
    """The same numbers everywhere. Logits are about 1: many keys count, and none of them much."""
    generator = np.random.default_rng(0)
    return tuple(jnp.asarray(generator.standard_normal(shape, np.float32), dtype) for shape in shapes)


def _checked(name: str, form: Callable, plain: Callable, arrays: Sequence, allowed: float) -> KernelCheck:
    try:
        lowered = jax.jit(form).lower(*arrays)
        if not has_kernel(lowered.as_text()):
            return KernelCheck(name, False, 0.0, allowed)
        found = lowered.compile()(*arrays)
    except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError) as error:
        return KernelCheck(name, True, np.inf, allowed, f"{type(error).__name__}: {error}".splitlines()[0])
    with jax.default_matmul_precision("highest"):
        exact = jax.jit(plain)(*(x.astype(jnp.float32) if x.dtype.itemsize == 2 else x for x in arrays))
    errors = [_error(*pair) for pair in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)]
    return KernelCheck(name, True, max(errors), allowed)


def _error(found, exact) -> float:
    """inf for what is no number."""
    found, exact = np.asarray(found, np.float32), np.asarray(exact, np.float32)
    usual = np.sqrt((exact**2).sum(-1).mean())
    error = np.sqrt(((found - exact) ** 2).sum(-1)).max() / usual
    return float(error) if np.isfinite(error) else np.inf
