"""The losses: next token, ranking of the selector's scores, and classes of labelled groups.

Source: SPEC 9.8 (next token). The ranking loss is ours: by the language loss alone the released selector learns the
wrong sign (docs/tiny.md).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vxlpro_jax.types import IGNORE_LABEL


def next_token_loss(
    logits: Float[Array, "B L V"], labels: Int[Array, "B L"]
) -> tuple[Float[Array, ""], Bool[Array, "B"]]:
    """Mean cross entropy over all labels that count, and for each row whether every one of its labels got the highest
    logit.

    The logits at place l are for the label at l + 1.
    """
    targets = labels[:, 1:]
    counted = targets != IGNORE_LABEL
    log_probs = jax.nn.log_softmax(logits[:, :-1].astype(jnp.float32))
    picked = jnp.take_along_axis(log_probs, jnp.maximum(targets, 0)[..., None], axis=-1)[..., 0]
    loss = -jnp.where(counted, picked, 0).sum() / jnp.maximum(counted.sum(), 1)
    return loss, jnp.where(counted, logits[:, :-1].argmax(-1) == targets, True).all(-1)


def ranking_loss(
    scores: Float[Array, "B G P"], relevant: Bool[Array, "B G"], real: Bool[Array, "B G"], sharpness: float
) -> Float[Array, ""]:
    """Listwise cross entropy: of all tokens of a row, those of relevant groups should hold the softmax of sharpness *
    score.

    relevant: True where the group shows what the question asks about. real: True where the group is no padding. Rows
    in which all groups or none are relevant say nothing and do not count.
    """
    size, _, tokens = scores.shape
    logits = jnp.where(jnp.repeat(real, tokens, axis=1), sharpness * scores.reshape(size, -1), -jnp.inf)
    wanted = jnp.repeat(relevant & real, tokens, axis=1)
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    per_row = -jnp.where(wanted, log_probs, 0).sum(-1) / jnp.maximum(wanted.sum(-1), 1)
    spoken = (relevant & real).any(-1) & (~relevant & real).any(-1)
    return jnp.where(spoken, per_row, 0).sum() / jnp.maximum(spoken.sum(), 1)


def class_loss(logits: Float[Array, "N C"], labels: Int[Array, "N"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean cross entropy and accuracy over the labels that are not negative."""
    counted = labels >= 0
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(labels, 0)[:, None], axis=-1)[:, 0]
    total = jnp.maximum(counted.sum(), 1)
    return -jnp.where(counted, picked, 0).sum() / total, (counted & (logits.argmax(-1) == labels)).sum() / total
