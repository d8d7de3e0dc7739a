"""Rotary position transforms: the LLM's own, and the extra one over a video's rows.

Source: SPEC 9.8 (half-split pairs, per head) and 9.5 (interleaved pairs, full width, before the LLM). Angles are
float32. Contexts beyond the trained one: YaRN (arXiv 2309.00071) with the constants that Qwen2.5's documentation takes
over from transformers.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vxlpro_jax.models.part_configs import ContextStretch

YARN_FAST_TURNS = 32.0  # a pair that turns so often over the trained context is left as it is (beta_fast)
YARN_SLOW_TURNS = 1.0  # one that turns less than once is slowed down by the whole factor (beta_slow)


def slow_down(stretch: ContextStretch, dim: int, base: float) -> np.ndarray:
    """float64 [dim / 2]: by what each pair's frequency is multiplied, from 1 (fast pairs) to 1 / factor."""

    def pair_that_turns(times: float) -> float:
        return dim * math.log(stretch.trained_len / (times * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(pair_that_turns(YARN_FAST_TURNS)), 0)
    high = min(math.ceil(pair_that_turns(YARN_SLOW_TURNS)), dim - 1)
    share = np.clip((np.arange(dim // 2) - low) / max(high - low, 0.001), 0, 1)
    return (1 - share) + share / stretch.factor


def logit_scale(stretch: ContextStretch) -> float:
    """What cosines and sines are multiplied by: longer contexts want sharper attention."""
    return 0.1 * math.log(stretch.factor) + 1


def _angles(
    positions: Int[Array, "..."], dim: int, base: float, stretch: ContextStretch | None = None
) -> Float[Array, "... half"]:
    frequencies = base ** (-jnp.arange(0, dim, 2, dtype=jnp.float32) / dim)
    if stretch is not None:
        frequencies = frequencies * jnp.asarray(slow_down(stretch, dim, base), jnp.float32)
    return positions[..., None].astype(jnp.float32) * frequencies


def rotate_heads(
    x_BLNH: Float[Array, "B L N H"], positions: Int[Array, "B L"], base: float, stretch: ContextStretch | None = None
) -> Float[Array, "B L N H"]:
    """The LLM's rotary embedding: the first half of each head is paired with the second. Tables are cast to x's
    type. stretch: for a context longer than the trained one."""
    angles = _angles(positions, x_BLNH.shape[-1], base, stretch)[:, :, None, :]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    if stretch is not None:
        cos, sin = cos * logit_scale(stretch), sin * logit_scale(stretch)
    cos, sin = cos.astype(x_BLNH.dtype), sin.astype(x_BLNH.dtype)
    first, second = jnp.split(x_BLNH, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def rotate_rows(x: Float[Array, "... D"], positions: Int[Array, "..."], base: float) -> Float[Array, "... D"]:
    """Rotation of whole embedding rows by their row number: neighbouring channels are paired. Computed in float32, cast
    back."""
    angles = _angles(positions, x.shape[-1], base)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    even, odd = x[..., 0::2].astype(jnp.float32), x[..., 1::2].astype(jnp.float32)
    rotated = jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1)
    return rotated.reshape(x.shape).astype(x.dtype)
