"""The losses: next token, ranking of the selector's scores, and classes of labelled groups; and how losses add up.

Source: SPEC 9.8 (next token). The ranking loss is ours: by the language loss alone the released selector learns the
wrong sign (docs/tiny.md).
A loss is handed on as a sum and a count, never as a mean: the mean over an overall batch is that of its micro-batches'
sums over that of their counts, whatever each of them counted.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vxlpro_jax.types import IGNORE_LABEL


class Tally(NamedTuple):
    """total float32 []: a sum. number [] int32 or float32: of how many things."""

    total: jax.Array
    number: jax.Array

    def mean(self) -> jax.Array:
        """The mean; zero where nothing was counted."""
        return self.total / jnp.maximum(self.number, 1)


class Term(NamedTuple):
    """A part of a loss: weight * total / number, both summed over the overall batch first.

    number must follow from the batch alone: it is asked for before any gradient, and the rest is then not computed.
    """

    total: jax.Array
    number: jax.Array
    weight: float = 1.0


class LossTerms(NamedTuple):
    """What a loss function returns: its terms by name, and what else is worth watching."""

    terms: dict[str, Term]
    metrics: dict[str, Tally]


def weighed_mean(terms: dict[str, Term]) -> Float[Array, ""]:
    """The loss that the terms make."""
    return sum(term.weight * Tally(term.total, term.number).mean() for term in terms.values()) + jnp.zeros(())


def next_token_loss(logits: Float[Array, "B L V"], labels: Int[Array, "B L"]) -> tuple[Tally, Bool[Array, "B"]]:
    """Cross entropy over all labels that count, and for each row whether every one of its labels got the highest
    logit.

    The logits at place l are for the label at l + 1.
    """
    targets = labels[:, 1:]
    counted = targets != IGNORE_LABEL
    log_probs = jax.nn.log_softmax(logits[:, :-1].astype(jnp.float32))
    picked = jnp.take_along_axis(log_probs, jnp.maximum(targets, 0)[..., None], axis=-1)[..., 0]
    right = jnp.where(counted, logits[:, :-1].argmax(-1) == targets, True).all(-1)
    return Tally(-jnp.where(counted, picked, 0).sum(), counted.sum()), right


def ranking_loss(
    scores: Float[Array, "B G P"], relevant: Bool[Array, "B G"], real: Bool[Array, "B G"], sharpness: float
) -> Tally:
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
    return Tally(jnp.where(spoken, per_row, 0).sum(), spoken.sum())


def class_loss(logits: Float[Array, "N C"], labels: Int[Array, "N"]) -> tuple[Tally, Tally]:
    """Cross entropy and right guesses over the labels that are not negative."""
    counted = labels >= 0
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(labels, 0)[:, None], axis=-1)[:, 0]
    right = (counted & (logits.argmax(-1) == labels)).sum(dtype=jnp.float32)
    return Tally(-jnp.where(counted, picked, 0).sum(), counted.sum()), Tally(right, counted.sum())
