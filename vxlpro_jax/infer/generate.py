"""Prefill and decoding as pure jitted functions of (params, arrays), and the loop that drives them.

Source: SPEC 9.6 to 9.8.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vxlpro_jax.infer.kv_cache import allocate
from vxlpro_jax.infer.token_sampler import Sampling, next_token
from vxlpro_jax.models.qwen2 import KVCache
from vxlpro_jax.models.video_xl_pro import VideoXLProModel
from vxlpro_jax.types import RowBatch, Selection


class Prefilled(NamedTuple):
    """A batch of prompts, read. logits float32 [B, V] of the next token; scores [B, G, P] of the visual tokens;
    num_rows int32 [B]: rows that the LLM read; num_kept int32 [B]: visual tokens among them."""

    logits: Array
    cache: KVCache
    scores: Array
    num_rows: Array
    num_kept: Array


@partial(jax.jit, static_argnames=("model",))
def encode_frames(model: VideoXLProModel, params: Any, pixels: Float[Array, "T S S 3"]) -> Float[Array, "G P D"]:
    """Visual tokens of whole groups of frames."""
    return model.apply({"params": params}, pixels, jnp.arange(pixels.shape[0]), method=VideoXLProModel.encode)


@partial(jax.jit, static_argnames=("model", "length", "cache_len"))
def prefill(
    model: VideoXLProModel,
    params: Any,
    visual: Float[Array, "G P D"],
    batch: RowBatch,
    selection: Selection,
    length: int,
    cache_len: int,
) -> Prefilled:
    """Selects, splices and reads. visual is shared by all rows; `length` rows are read, `cache_len` slots allocated."""
    size = batch.text_ids.shape[0]

    def forward(module: VideoXLProModel) -> Prefilled:
        shared = jnp.broadcast_to(visual, (size, *visual.shape))
        rows, scores = module.merge(shared, batch, selection, length)
        logits, cache = module.prefill(rows, allocate(module.config.llm, size, cache_len, module.dtype))
        first_visual = batch.text_ids.shape[1] + batch.stamp_ids[0].size
        return Prefilled(logits, cache, scores, rows.valid.sum(-1), (rows.source >= first_visual).sum(-1))

    return model.apply({"params": params}, method=forward)


@partial(jax.jit, static_argnames=("sampling",))
def _choose(logits, key, step, sampling):
    """The next tokens, and whether all logits were finite."""
    return next_token(logits, jax.random.fold_in(key, step), sampling), jnp.isfinite(logits).all()


@partial(jax.jit, static_argnames=("model",), donate_argnames=("cache",))
def _read(model, params, ids, cache):
    return model.apply({"params": params}, ids, cache, method=VideoXLProModel.decode_step)


def decode(
    model: VideoXLProModel,
    params: Any,
    prefilled: Prefilled,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    sampling: Sampling,
    seed: int,
) -> Iterator[np.ndarray]:
    """Yields int32 [B], one token per row and step, -1 for rows that have ended, until all have.

    Consumes the cache. Raises FloatingPointError when the logits are not finite: the answer would be noise.
    """
    logits, cache = prefilled.logits, prefilled.cache
    key = jax.random.key(seed)
    ended = np.zeros(logits.shape[0], bool)
    for step in range(max_new_tokens):
        ids, healthy = _choose(logits, key, step, sampling)
        if not healthy:
            raise FloatingPointError(
                f"the model's logits are not finite at step {step} ({jnp.dtype(model.dtype).name}): damaged weights, "
                "or a working type too narrow for them; load with dtype='float32' or 'bfloat16'"
            )
        chosen = np.asarray(ids)
        ended |= np.isin(chosen, stop_ids)
        if ended.all():
            return
        yield np.where(ended, -1, chosen)
        if step + 1 < max_new_tokens:
            logits, cache = _read(model, params, ids, cache)
