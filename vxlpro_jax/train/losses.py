"""The losses: next token, ranking of the selector's scores, and classes of labelled groups; and how losses add up.

Source: SPEC 9.8 (next token). The ranking loss is ours: by the language loss alone the released selector learns the
wrong sign (docs/tiny.md).
A loss is handed on as a sum and a count, never as a mean: the mean over an overall batch is that of its micro-batches'
sums over that of their counts, whatever each of them counted.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vxlpro_jax.types import IGNORE_LABEL, RowBatch


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


def num_targets(rows: RowBatch) -> Int[Array, ""]:
    """Labels that a batch's rows count, from the batch alone: every text token is kept, whatever the selector drops.

    The first token of a row is nobody's target.
    """
    later = rows.row_source[:, 1:]
    is_text = (later >= 0) & (later < rows.labels.shape[1])
    labels = jnp.take_along_axis(rows.labels, jnp.where(is_text, later, 0), axis=1)
    return (is_text & (labels != IGNORE_LABEL)).sum()


def chunked_token_loss(
    logits_of: Callable[[jax.Array], jax.Array],
    hidden: Float[Array, "B L D"],
    labels: Int[Array, "B L"],
    chunk: int,
) -> tuple[Tally, Tally, Tally]:
    """Cross entropy, squared log of the softmax's sum (z), and right guesses over the labels that count.

    logits_of: hidden states [B, l, D] -> logits [B, l, V]. chunk: places whose logits are held at a time, in the
    gradient too; 0: all at once.
    """
    targets = jnp.concatenate([labels[:, 1:], jnp.full_like(labels[:, :1], IGNORE_LABEL)], axis=1)

    def part(item):
        states, wanted = item
        logits = logits_of(states).astype(jnp.float32)
        log_sum = jax.nn.logsumexp(logits, axis=-1)
        picked = jnp.take_along_axis(logits, jnp.maximum(wanted, 0)[..., None], axis=-1)[..., 0]
        counted = wanted != IGNORE_LABEL
        sums = (log_sum - picked, jnp.square(log_sum), (logits.argmax(-1) == wanted).astype(jnp.float32))
        return tuple(jnp.where(counted, value, 0).sum() for value in sums)

    number = (targets != IGNORE_LABEL).sum()
    length = labels.shape[1]
    if not chunk or chunk >= length:
        totals = part((hidden, targets))
    else:
        fill = -length % chunk
        hidden = jnp.pad(hidden, ((0, 0), (0, fill), (0, 0)))
        targets = jnp.pad(targets, ((0, 0), (0, fill)), constant_values=IGNORE_LABEL)
        cut = (x.reshape(x.shape[0], -1, chunk, *x.shape[2:]).swapaxes(0, 1) for x in (hidden, targets))
        totals = tuple(value.sum() for value in jax.lax.map(jax.checkpoint(part), tuple(cut)))
    ce, z, right = (Tally(total, number) for total in totals)
    return ce, z, right


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
