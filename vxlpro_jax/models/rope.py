"""Rotary position transforms: the LLM's own, and the extra one over a video's rows.

Source: SPEC 9.8 (half-split pairs, per head) and 9.5 (interleaved pairs, full width, before the LLM). Angles are
float32.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def _angles(positions: Int[Array, "..."], dim: int, base: float) -> Float[Array, "... half"]:
    frequencies = base ** (-jnp.arange(0, dim, 2, dtype=jnp.float32) / dim)
    return positions[..., None].astype(jnp.float32) * frequencies


def rotate_heads(x_BLNH: Float[Array, "B L N H"], positions: Int[Array, "B L"], base: float) -> Float[Array, "B L N H"]:
    """The LLM's rotary embedding: the first half of each head is paired with the second. Tables are cast to x's
    type."""
    angles = _angles(positions, x_BLNH.shape[-1], base)[:, :, None, :]
    cos, sin = jnp.cos(angles).astype(x_BLNH.dtype), jnp.sin(angles).astype(x_BLNH.dtype)
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
