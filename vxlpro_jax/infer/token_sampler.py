"""The next token from its logits.

Source: the usual temperature, top-k and nucleus sampling; greedy is the default, as in the released demo.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


@dataclass(frozen=True)
class Sampling:
    """temperature 0: always the likeliest token. top_p: smallest set of tokens with that probability; top_k: that many
    (0: all).

    Raises ValueError when a value is out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self):
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(f"{self}: temperature >= 0, 0 < top_p <= 1 and top_k >= 0 are accepted")


def next_token(logits: Float[Array, "B V"], key: PRNGKeyArray, sampling: Sampling) -> Int[Array, "B"]:
    """One token per row. Every row draws with the same key, so that a row's answer does not depend on its
    neighbours."""
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    order = jnp.argsort(-logits, axis=-1)
    ranked = jnp.take_along_axis(logits, order, axis=-1) / sampling.temperature
    before = jnp.cumsum(jax.nn.softmax(ranked, axis=-1), axis=-1) - jax.nn.softmax(ranked, axis=-1)
    allowed = before < sampling.top_p
    if sampling.top_k:
        allowed &= jnp.arange(logits.shape[-1]) < sampling.top_k
    drawn = jax.vmap(lambda row: jax.random.categorical(key, row))(jnp.where(allowed, ranked, -jnp.inf))
    return jnp.take_along_axis(order, drawn[:, None], axis=-1)[:, 0].astype(jnp.int32)
