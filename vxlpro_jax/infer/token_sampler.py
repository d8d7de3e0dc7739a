"""The next token from its logits.

Source: the usual temperature, top-k and nucleus sampling; greedy is the default, as in the released demo.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


@dataclass(frozen=True)
class Sampling:
    """temperature 0: always the likeliest token. top_k: that many of the likeliest (0: all); of these, top_p: the
    smallest set with that share of their probability.

    Raises ValueError when a value is out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self):
        if not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(f"{self}: finite temperature >= 0, 0 < top_p <= 1 and top_k >= 0 are accepted")


def next_token(logits: Float[Array, "B V"], key: PRNGKeyArray, sampling: Sampling) -> Int[Array, "B"]:
    """One token per row. Every row draws with the same key, so that a row's answer does not depend on its
    neighbours."""
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    order = jnp.argsort(-logits, axis=-1)
    ranked = jnp.take_along_axis(logits, order, axis=-1) / sampling.temperature
    if sampling.top_k:
        ranked = jnp.where(jnp.arange(logits.shape[-1]) < sampling.top_k, ranked, -jnp.inf)
    probability = jax.nn.softmax(ranked, axis=-1)
    allowed = jnp.cumsum(probability, axis=-1) - probability < sampling.top_p
    drawn = jax.vmap(lambda row: jax.random.categorical(key, row))(jnp.where(allowed, ranked, -jnp.inf))
    return jnp.take_along_axis(order, drawn[:, None], axis=-1)[:, 0].astype(jnp.int32)
