"""The stages of training as data, and the loss of each.

Source: ours (docs/tiny.md). A stage names the modules it trains, the loss it follows and how the parts of the loss
are weighed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from vxlpro_jax.data.image_transforms import to_pixels
from vxlpro_jax.models.dts import pack_frames
from vxlpro_jax.models.projector import pool_grid
from vxlpro_jax.models.video_xl_pro import VideoXLProModel
from vxlpro_jax.train.losses import (
    LossTerms,
    Tally,
    Term,
    chunked_token_loss,
    next_token_loss,
    num_targets,
    ranking_loss,
)
from vxlpro_jax.train.state import Params
from vxlpro_jax.train.vision_heads import heads_loss
from vxlpro_jax.types import ClipBatch, RowBatch, Selection

Array = Any
LossFunction = Callable[[Params, Any, jax.Array], LossTerms]
"""(params, batch, key) -> terms and metrics. Pure; key is for whatever is random in it."""


@dataclass(frozen=True)
class StageConfig:
    """loss: "frames" teaches the tower by auxiliary heads on single frames, "groups" tower and DTS by heads on frames
    and groups, "words" the LLM by answers over groups described in words, "answers" the rest by answers over cached
    DTS features, "clips" any part by answers about the pixels of videos and pictures (align, sft).

    trainable, frozen: parts that are trained, and exceptions from them (train/state.py, split_params).
    num_steps: updates; 0: as many as `epochs` over the data take. micro_batches: batches of the feed that make one
    update; the overall batch is their sum.
    group_weight: of the heads on groups beside those on frames.
    ranking_weight, ranking_sharpness: of the listwise loss on the selector's scores beside the next-token loss, in rows
    that say which groups matter.
    stamp_weight: of the loss by which visual tokens tell the time of their group from the LLM's middle layer.
    z_weight: of the squared log of the softmax's sum, which keeps logits from drifting; 0: none.
    dtype: of the computation; parameters that are trained and the optimizer's moments are float32 always.
    frozen_dtype: in which frozen parameters are held. remat: True: activations of a layer are computed again in the
    backward pass. encode_groups: groups of each sample that are encoded at a time, their activations computed again in
    the backward pass; 0: all. loss_chunk: places whose logits are held at a time; 0: all.
    selection: the selector's rule while this stage is trained, whatever the model's own is; empty: the model's own.
    attention: who computes the vision tower's (models/attention.py).
    """

    loss: Literal["frames", "groups", "words", "answers", "clips"]
    trainable: tuple[str, ...]
    num_steps: int
    group_weight: float
    ranking_weight: float
    ranking_sharpness: float
    stamp_weight: float
    frozen: tuple[str, ...] = ()
    epochs: int = 1
    micro_batches: int = 1
    z_weight: float = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    frozen_dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    encode_groups: int = 0
    loss_chunk: int = 0
    selection: Literal["", "keep_rate", "budget"] = ""
    attention: Literal["auto", "xla"] = "auto"


class VisionBatch(NamedTuple):
    """pixels float32 [N, t, S, S, 3]; frame_labels by name int32 [N * t]; group_labels by name int32 [N]; -1 = no
    label."""

    pixels: Array
    frame_labels: dict[str, Array]
    group_labels: dict[str, Array]


class AnswerBatch(NamedTuple):
    """features float [B, G, g, g, E]: outputs of the DTS, or int [B, G, words]: token ids of what each group shows;
    rows, selection: as the model takes them; relevant bool [B,
    G]: True where the group shows what is asked; kind int32 [B]: question kind, for the metrics; width int32
    [length]: its shape is the static number of rows after selection."""

    features: Array
    rows: RowBatch
    selection: Selection
    relevant: Array
    kind: Array
    width: Array


def stage_loss(config: StageConfig, model: VideoXLProModel) -> LossFunction:
    """The stage's loss as a pure function."""
    if config.loss == "frames":
        return lambda params, batch, key: _frame_loss(model, params, batch)
    if config.loss == "groups":
        return lambda params, batch, key: _group_loss(config, model, params, batch)
    if config.loss == "clips":
        return lambda params, batch, key: _clip_loss(config, model, params, batch)
    return lambda params, batch, key: _answer_loss(config, model, params, batch)[0]


def dts_features(model: VideoXLProModel, params: Params, pixels: Array) -> tuple[Array, Array]:
    """Tower features [N * t, g, g, E] and DTS outputs [N, g, g, E] of groups of frames [N, t, S, S, 3]."""
    frames = model.apply(
        {"params": params}, pixels.reshape(-1, *pixels.shape[2:]), method=VideoXLProModel.encode_frames
    )
    packed = pack_frames(frames, model.config.dts)
    return frames, model.apply({"params": params}, packed, method=lambda module, x: module.dts(x))


def project(model: VideoXLProModel, params: Params, features: Array) -> Array:
    """Visual tokens [..., P, D] of DTS outputs [..., g, g, E]."""
    flat = features.reshape(-1, *features.shape[-3:])
    projected = model.apply({"params": params}, flat, method=lambda module, x: module.projector(x))
    tokens = pool_grid(projected, model.config.projector)
    return tokens.reshape(*features.shape[:-3], *tokens.shape[1:])


def spell(model: VideoXLProModel, params: Params, words: Array) -> Array:
    """Visual tokens [B, G, P, D] that stand for words [B, G, K] (negative: none): in every place of a group the mean of
    its words' embeddings."""
    embeds = model.apply({"params": params}, jnp.maximum(words, 0), method=lambda m, ids: m.llm.embed(ids, m.dtype))
    real = (words >= 0)[..., None]
    mean = jnp.where(real, embeds, 0).sum(-2) / jnp.maximum(real.sum(-2), 1)
    return jnp.repeat(mean[:, :, None], model.config.tokens_per_group, axis=2)


def _frame_loss(model: VideoXLProModel, params: Params, batch: VisionBatch) -> LossTerms:
    pixels = batch.pixels.reshape(-1, *batch.pixels.shape[2:])
    frames = model.apply({"params": params}, pixels, method=VideoXLProModel.encode_frames)
    return heads_loss(params["heads"], "frame", frames, batch.frame_labels, 1.0)


def _group_loss(config: StageConfig, model: VideoXLProModel, params: Params, batch: VisionBatch) -> LossTerms:
    frames, groups = dts_features(model, params, batch.pixels)
    of_frames = heads_loss(params["heads"], "frame", frames, batch.frame_labels, 1.0)
    of_groups = heads_loss(params["heads"], "group", groups, batch.group_labels, config.group_weight)
    return LossTerms(of_frames.terms | of_groups.terms, of_frames.metrics | of_groups.metrics)


def _answer_loss(
    config: StageConfig, model: VideoXLProModel, params: Params, batch: AnswerBatch
) -> tuple[LossTerms, Array, Array]:
    if config.loss == "words":
        visual = spell(model, params, batch.features)
    else:
        visual = project(model, params, batch.features.astype(model.dtype))
    args = (visual, batch.rows, batch.selection, batch.width.shape[0])
    output = model.apply({"params": params}, *args)
    answer, right = next_token_loss(output.logits, output.labels)
    real = batch.rows.video_of_group >= 0
    order = ranking_loss(output.scores, batch.relevant, real, config.ranking_sharpness)
    terms = {
        "answer_loss": Term(answer.total, num_targets(batch.rows)),
        "ranking_loss": Term(order.total, order.number, config.ranking_weight),
    }
    if config.stamp_weight:
        half, half_params = _lower_half(model, params)
        stamp = half.apply({"params": half_params}, *args, method=stamp_loss)
        terms["stamp_loss"] = Term(stamp.total, stamp.number, config.stamp_weight)
    metrics = {"right": Tally(right.sum(dtype=jnp.float32), jnp.array(right.size))}
    return LossTerms(terms, metrics), right, output.scores


def _clip_loss(config: StageConfig, model: VideoXLProModel, params: Params, batch: ClipBatch) -> LossTerms:
    rows, relevant, has_relevant = batch.rows, batch.relevant, batch.has_relevant
    if rows is None or relevant is None or has_relevant is None or batch.width is None:
        raise ValueError('a batch without prompts: stage.loss="clips" needs data that asks something (data.prompt).')
    visual = project(model, params, encode_clips(model, params, batch.frames, config.encode_groups))
    args = (visual, rows, batch.selection, batch.width.shape[0])
    hidden, labels, scores = model.apply({"params": params}, *args, method=VideoXLProModel.hidden)

    def logits_of(states):
        return model.apply({"params": params}, states, method=lambda module, x: module.llm.logits(x))

    tokens, spread, right = chunked_token_loss(logits_of, hidden, labels, config.loss_chunk)
    number = num_targets(rows)
    terms = {"token_loss": Term(tokens.total, number)}
    if config.z_weight:
        terms["z_loss"] = Term(spread.total, number, config.z_weight)
    if config.ranking_weight:
        told = relevant & has_relevant[:, None]
        order = ranking_loss(scores, told, rows.video_of_group >= 0, config.ranking_sharpness)
        terms["ranking_loss"] = Term(order.total, order.number, config.ranking_weight)
    read = Tally(batch.valid.sum(dtype=jnp.float32), jnp.array(batch.valid.size))
    return LossTerms(terms, {"right_tokens": right, "readable": read})


def encode_clips(model: VideoXLProModel, params: Params, frames: Array, encode_groups: int) -> Array:
    """DTS outputs [B, G, g, g, E] of uint8 frames [B, T, S, S, 3], `encode_groups` groups of each sample at a time."""
    size, per_group = frames.shape[0], model.config.dts.frames_per_group
    groups = frames.reshape(size, -1, per_group, *frames.shape[2:])
    num_groups = groups.shape[1]

    def encode(part):
        pixels = to_pixels(part.reshape(-1, *part.shape[2:]))
        features = dts_features(model, params, pixels)[1]
        return features.reshape(size, -1, *features.shape[1:])

    if not encode_groups or encode_groups >= num_groups:
        return encode(groups)
    groups = jnp.pad(groups, ((0, 0), (0, -num_groups % encode_groups), *((0, 0),) * 4))
    parts = groups.reshape(size, -1, encode_groups, *groups.shape[2:]).swapaxes(0, 1)
    features = jax.lax.map(jax.checkpoint(encode), parts).swapaxes(0, 1)
    return features.reshape(size, -1, *features.shape[3:])[:, :num_groups]


def stamp_loss(module: VideoXLProModel, visual: Array, rows: RowBatch, selection: Selection, length: int) -> Tally:
    """Cross entropy of a group's time read from its visual tokens: they say the last two tokens of its stamp in turn.

    A time is copied into an answer from what the asked-about group shows only if the group's tokens hold it; the
    answer alone asks for that too faintly (docs/tiny.md).
    """
    merged, _ = module.merge(visual, rows, selection, length)
    _, num_groups, stamp_len = rows.stamp_ids.shape
    place = merged.source - rows.text_ids.shape[1] - num_groups * stamp_len
    group, token = jnp.maximum(place, 0) // visual.shape[2], jnp.maximum(place, 0) % visual.shape[2]
    last_two = rows.stamp_ids[:, :, -2:].reshape(rows.stamp_ids.shape[0], -1)
    labels = jnp.take_along_axis(last_two, 2 * group + token % 2, axis=1)
    positions = jnp.maximum(jnp.cumsum(merged.valid, -1) - 1, 0)
    hidden, _ = module.llm(merged.embeds, positions, merged.valid)
    log_probs = jax.nn.log_softmax(module.llm.logits(hidden))
    picked = jnp.take_along_axis(log_probs, labels[..., None], axis=-1)[..., 0]
    return Tally(-jnp.where(place >= 0, picked, 0).sum(), (place >= 0).sum())


def _lower_half(model: VideoXLProModel, params: Params) -> tuple[VideoXLProModel, Params]:
    """The model with the first half of the LLM's layers."""
    num_layers = model.config.llm.num_layers // 2
    config = replace(model.config, llm=replace(model.config.llm, num_layers=num_layers))
    layers = jax.tree.map(lambda leaf: leaf[:num_layers], params["llm"]["layers"])
    return model.clone(config=config), {**params, "llm": {**params["llm"], "layers": layers}}


def answer_check(config: StageConfig, model: VideoXLProModel) -> Callable[[Params, AnswerBatch], tuple[Array, Array]]:
    """(params, batch) -> whether each row's whole answer is the greedy one [B], and the scores [B, G, P]."""
    return lambda params, batch: _answer_loss(config, model, params, batch)[1:]
