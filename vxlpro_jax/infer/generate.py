"""Prefill and decoding as pure jitted functions of (params, arrays); decoding loops on the device.

Source: SPEC 9.6 to 9.8.
"""

from collections.abc import Generator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vxlpro_jax.infer.kv_cache import allocate
from vxlpro_jax.infer.layer_views import by_layer
from vxlpro_jax.infer.token_sampler import Sampling, next_token
from vxlpro_jax.models.qwen2 import KVCache
from vxlpro_jax.models.video_xl_pro import VideoXLProModel
from vxlpro_jax.types import RowPlan

DECODE_BLOCK = 32  # tokens that one call of the device may make: enough to hide the call, few to throw away
STREAM_STRIDE = 4  # the same where somebody watches the text grow


class Prefilled(NamedTuple):
    """A batch of prompts, read. logits float32 [B, V] of the next token."""

    logits: Array
    cache: KVCache


@partial(jax.jit, static_argnames=("model",))
def encode_frames(model: VideoXLProModel, params: Any, pixels: Float[Array, "T S S 3"]) -> Float[Array, "G P D"]:
    """Visual tokens of whole groups of frames."""
    return model.apply({"params": params}, pixels, jnp.arange(pixels.shape[0]), method=VideoXLProModel.encode)


@partial(jax.jit, static_argnames=("model", "cache_len"))
def prefill(
    model: VideoXLProModel, params: Any, plan: RowPlan, visual: Float[Array, "B L D"], cache_len: int
) -> Prefilled:
    """Reads planned rows into a cache of `cache_len` slots. visual: the visual token of each row; anything where the
    plan names none."""

    def forward(module: VideoXLProModel) -> Prefilled:
        cache = allocate(module.config.llm, len(plan.valid), cache_len, module.dtype)
        return Prefilled(*module.prefill(module.embed_rows(plan, visual), plan.valid, cache))

    return model.apply({"params": params}, method=forward)


class _Steps(NamedTuple):
    """Where decoding stands. ids int32 [B]: the last tokens, chosen but not read; ended bool [B]: rows that reached a
    stop token; healthy bool []: all logits were finite; step int32 []: tokens chosen so far."""

    ids: Array
    ended: Array
    healthy: Array
    step: Array


def _choose(logits, key, steps: _Steps, stop_ids, sampling: Sampling) -> _Steps:
    ids = next_token(logits, jax.random.fold_in(key, steps.step), sampling)
    ended = steps.ended | jnp.isin(ids, stop_ids)
    return _Steps(ids, ended, jnp.isfinite(logits).all(), steps.step + 1)


@partial(jax.jit, static_argnames=("sampling",))
def _first_tokens(logits, key, stop_ids, sampling) -> _Steps:
    nothing = jnp.zeros(logits.shape[0], jnp.int32)
    start = _Steps(nothing, nothing.astype(bool), jnp.bool_(True), jnp.int32(0))
    return _choose(logits, key, start, stop_ids, sampling)


@partial(jax.jit, static_argnames=("model", "sampling"), donate_argnames=("cache",))
def _more_tokens(model, params, steps: _Steps, cache, key, last_step, stop_ids, sampling):
    """Reads and chooses until last_step tokens are chosen, all rows have ended, or logits are not finite.

    Returns the chosen tokens too, int32 [B, DECODE_BLOCK]; of them, those before the new step are set.
    """

    def going_on(state):
        steps, _, _ = state
        return (steps.step < last_step) & ~steps.ended.all() & steps.healthy

    def one(state):
        steps, cache, chosen = state
        logits, cache = model.apply({"params": params}, steps.ids, cache, method=VideoXLProModel.decode_step)
        place = steps.step - first_step
        steps = _choose(logits, key, steps, stop_ids, sampling)
        return steps, cache, chosen.at[:, place].set(jnp.where(steps.ended, -1, steps.ids))

    first_step = steps.step
    chosen = jnp.full((steps.ids.shape[0], DECODE_BLOCK), -1, jnp.int32)
    return jax.lax.while_loop(going_on, one, (steps, cache, chosen))


def decode(
    model: VideoXLProModel,
    params: Any,
    logits: Float[Array, "B V"],
    cache: KVCache,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    sampling: Sampling,
    seed: int,
    stride: int = DECODE_BLOCK,
) -> Generator[np.ndarray, None, KVCache]:
    """Yields int32 [B], one token per row and step, -1 for rows that have ended, until all have.

    stride: tokens made on the device before the host sees them, at most DECODE_BLOCK. Consumes the cache and returns
    the one that holds every token but the last. Raises FloatingPointError when the logits are not finite: the answer
    would be noise.
    """
    params = by_layer(params)
    key, stops = jax.random.key(seed), jnp.asarray(list(stop_ids), jnp.int32)
    steps = _first_tokens(logits, key, stops, sampling)
    chosen, seen = np.where(steps.ended, -1, steps.ids)[:, None], 0
    while True:
        healthy, step = bool(steps.healthy), int(steps.step)
        for column in chosen.T[: step - seen - (not healthy)]:
            if (column < 0).all():
                return cache
            yield column
        if not healthy:
            raise FloatingPointError(
                f"the model's logits are not finite at step {step - 1} ({jnp.dtype(model.dtype).name}): damaged "
                "weights, or a working type too narrow for them; load with dtype='float32' or 'bfloat16'"
            )
        if step == max_new_tokens or bool(steps.ended.all()):
            return cache
        seen, last_step = step, min(max_new_tokens, step + stride)
        steps, cache, device_chosen = _more_tokens(
            model, params, steps, cache, key, jnp.int32(last_step), stops, sampling
        )
        chosen = np.asarray(device_chosen)
