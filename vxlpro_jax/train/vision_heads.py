"""Auxiliary heads that teach the tower and the DTS what a frame and a group show; dropped after their stage.

Source: ours (docs/tiny.md). Linear maps of mean-pooled features: what they can read, the projector can read too.
Column and row make
the tower write down where a thing is in a way that adds up: without them the DTS, which is nearly linear, finds no
direction.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vxlpro_jax.train.losses import LossTerms, Term, class_loss
from vxlpro_jax.train.state import Params

FRAME_HEADS = {"kind": 5, "glyph": 16, "colour": 8, "column": 4, "row": 4}
GROUP_HEADS = {"kind": 5, "glyph": 16, "colour": 8, "direction": 4}


def new_heads(key: jax.Array, dim: int) -> Params:
    """Zero-biased linear heads by name, for frames and for groups."""
    heads: Params = {}
    for where, names in (("frame", FRAME_HEADS), ("group", GROUP_HEADS)):
        for name, classes in names.items():
            key, used = jax.random.split(key)
            kernel = jax.random.normal(used, (dim, classes)) * dim**-0.5
            heads[f"{where}_{name}"] = {"kernel": kernel, "bias": jnp.zeros(classes)}
    return heads


def heads_loss(
    heads: Params, where: str, features: Float[Array, "N h w E"], labels: dict[str, Int[Array, "N"]], weight: float
) -> LossTerms:
    """Class losses over mean-pooled features, and the accuracy of each; `where` is "frame" or "group"."""
    pooled = features.mean((1, 2))
    # Mean-pooled features keep their direction, not their scale: the heads read them normalised.
    pooled = pooled * jax.lax.rsqrt(jnp.square(pooled).mean(-1, keepdims=True) + 1e-6)
    terms, accuracy = {}, {}
    for name, target in labels.items():
        head = heads[f"{where}_{name}"]
        loss, accuracy[f"{where}_{name}"] = class_loss(pooled @ head["kernel"] + head["bias"], target)
        terms[f"{where}_{name}_loss"] = Term(loss.total, loss.number, weight)
    return LossTerms(terms, accuracy)
