"""The whole model: frames to visual tokens, tokens and prompt to logits.

Source: SPEC 1 to 9. Every choice that the reference makes inside its forward pass (which frames are repeated, how much
is kept) is an argument here.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vxlpro_jax.models.attention import AttentionKind
from vxlpro_jax.models.dts import DynamicTokenSynthesizer, pack_frames
from vxlpro_jax.models.part_configs import ContextStretch
from vxlpro_jax.models.presets import VideoXLProConfig
from vxlpro_jax.models.projector import Projector, pool_grid
from vxlpro_jax.models.qwen2 import KVCache, Qwen2
from vxlpro_jax.models.selector import QuerySelector, keep_tokens, normalise_scores
from vxlpro_jax.models.siglip import SiglipTower, resize_grid
from vxlpro_jax.models.splice import MergedRows, labels_at, mark_rows, plan_rows
from vxlpro_jax.parallel import axes
from vxlpro_jax.parallel.axes import Rules
from vxlpro_jax.types import RowBatch, RowPlan, Selection


class ModelOutput(NamedTuple):
    """logits float32 [B, L, V]; labels int32 [B, L] of the merged rows; scores [B, G, P] of the visual tokens, in [0,
    1]."""

    logits: Array
    labels: Array
    scores: Array


class VideoXLProModel(nn.Module):
    """Linen module over the five parts; `dtype` is the working type, norms and logits are float32 islands.

    stretch: for contexts beyond the one that the LLM was trained on. attention: who computes it (models/attention.py).
    """

    config: VideoXLProConfig
    rules: Rules = axes.UNSHARDED
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    stretch: ContextStretch | None = None
    attention: AttentionKind = "auto"

    def setup(self):
        cfg = self.config
        self.vision_tower = SiglipTower(cfg.vision, self.rules, self.remat, self.attention)
        self.dts = DynamicTokenSynthesizer(cfg.dts, self.rules)
        self.projector = Projector(cfg.projector)
        self.selector = QuerySelector(cfg.selector)
        self.llm = Qwen2(cfg.llm, self.rules, self.remat, self.stretch, self.attention)

    def encode_frames(self, pixels: Float[Array, "T S S 3"]) -> Float[Array, "T g g E"]:
        """Features of single frames on the DTS's grid. pixels in [-1, 1], channels last."""
        return resize_grid(self.vision_tower(pixels.astype(self.dtype)), self.config.dts.grid_size)

    def compress(self, features: Float[Array, "T g g E"], frame_source: Int[Array, "T2"]) -> Float[Array, "G P D"]:
        """Visual tokens of groups. frame_source: which frame stands in each place of each group, in order (SPEC 5)."""
        packed = pack_frames(features[frame_source], self.config.dts)
        return pool_grid(self.projector(self.dts(packed)), self.config.projector)

    def encode(self, pixels: Float[Array, "T S S 3"], frame_source: Int[Array, "T2"]) -> Float[Array, "G P D"]:
        """Frames to visual tokens: encode_frames, then compress."""
        return self.compress(self.encode_frames(pixels), frame_source)

    def score(self, visual: Float[Array, "B G P D"], batch: RowBatch) -> Float[Array, "B G P"]:
        """Relevance of each visual token to the row's query, stretched to [0, 1] per video."""
        raw = self.raw_scores(visual, batch.stamp_ids, batch.stamp_mask, self.mean_query(batch))
        return normalise_scores(raw, batch.video_of_group)

    def mean_query(self, batch: RowBatch) -> Float[Array, "B D"]:
        """What the scores know of each row's query."""
        return self.selector.mean_query(self._query(batch), batch.query_mask)

    def raw_scores(
        self,
        visual: Float[Array, "V G P D"],
        stamp_ids: Int[Array, "V G W"],
        stamp_mask: Bool[Array, "V G W"],
        mean_query: Float[Array, "B D"],
    ) -> Float[Array, "B G P"]:
        """Scores before they are stretched, of all groups or some. V: see QuerySelector.score."""
        stamps = self.llm.embed(stamp_ids, self.dtype)
        return self.selector.score(visual.astype(self.dtype), stamps, stamp_mask, mean_query)

    def _query(self, batch: RowBatch) -> Float[Array, "B L D"]:
        text = self.llm.embed(batch.text_ids, self.dtype)
        if self.config.selector.query_encoder == "embeddings":
            return text
        valid = _text_valid(batch)
        return self.llm(text, jnp.maximum(jnp.cumsum(valid, -1) - 1, 0), valid)[0]

    def merge(
        self, visual: Float[Array, "B G P D"], batch: RowBatch, selection: Selection, length: int
    ) -> tuple[MergedRows, Float[Array, "B G P"]]:
        """The rows that the LLM reads, in `length` static places, and the scores that chose them."""
        scores = self.score(visual, batch)
        plan, source = self.plan(scores, batch, selection, length)
        flat = visual.reshape(visual.shape[0], -1, visual.shape[-1])
        tokens = jnp.take_along_axis(flat, jnp.maximum(plan.visual, 0)[..., None], axis=1)
        return MergedRows(self.embed_rows(plan, tokens), plan.valid, labels_at(source, batch), source), scores

    def plan(
        self, scores: Float[Array, "B G P"], batch: RowBatch, selection: Selection, length: int
    ) -> tuple[RowPlan, Int[Array, "B L"]]:
        """The rows that the scores and the selection keep, and where each came from (splice.plan_rows)."""
        kept = keep_tokens(scores, batch.video_of_group, batch.stamp_mask, selection, self.config.selector)
        return plan_rows(scores, *kept, batch, length, self.config.selector.trained_rows)

    def embed_rows(self, plan: RowPlan, visual: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """What the LLM reads of planned rows, all or some. visual: the visual token of each row; anything where the
        plan names none."""
        cfg = self.config.selector
        tokens = self.llm.embed(plan.ids, self.dtype)
        embeds = jnp.where((plan.visual >= 0)[..., None], visual.astype(self.dtype), tokens)
        return mark_rows(embeds, plan, cfg.rotation_base, cfg.score_use)

    def read(
        self, plan: RowPlan, visual: Float[Array, "B L D"], last: Int[Array, ""], cache: KVCache
    ) -> tuple[Float[Array, "B V"], KVCache]:
        """Reads the next piece of a plan into the cache; logits of the token that follows its row `last`.

        visual: the visual token of each row; anything where the plan names none.
        """
        embeds = self.embed_rows(plan, visual)
        positions = cache.valid.sum(-1)[:, None] + _positions(plan.valid)
        hidden, filled = self.llm(embeds, positions, plan.valid, cache)
        assert filled is not None  # a cache went in
        return self.llm.logits(jax.lax.dynamic_index_in_dim(hidden, last, axis=1, keepdims=False)), filled

    def __call__(
        self, visual: Float[Array, "B G P D"], batch: RowBatch, selection: Selection, length: int
    ) -> ModelOutput:
        """Logits over the merged rows: the training path."""
        hidden, labels, scores = self.hidden(visual, batch, selection, length)
        return ModelOutput(self.llm.logits(hidden), labels, scores)

    def hidden(
        self, visual: Float[Array, "B G P D"], batch: RowBatch, selection: Selection, length: int
    ) -> tuple[Float[Array, "B L D"], Int[Array, "B L"], Float[Array, "B G P"]]:
        """The LLM's hidden states over the merged rows, before they become logits; labels and scores beside them."""
        rows, scores = self.merge(visual, batch, selection, length)
        hidden, _ = self.llm(rows.embeds, _positions(rows.valid), rows.valid)
        return hidden, rows.labels, scores

    def prefill(
        self, embeds: Float[Array, "B L D"], valid: Bool[Array, "B L"], cache: KVCache
    ) -> tuple[Float[Array, "B V"], KVCache]:
        """Reads the prompts into the cache; logits of the token that follows each."""
        hidden, filled = self.llm(embeds, _positions(valid), valid, cache)
        assert filled is not None  # a cache went in
        last = jnp.maximum(valid.sum(-1) - 1, 0)
        return self.llm.logits(jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]), filled

    def decode_step(self, ids: Int[Array, "B"], cache: KVCache) -> tuple[Float[Array, "B V"], KVCache]:
        """One more token per row, at the position after the row's last real token."""
        position = cache.valid.sum(-1)[:, None]
        x = self.llm.embed(ids[:, None], self.dtype)
        hidden, filled = self.llm(x, position, jnp.ones((ids.shape[0], 1), bool), cache)
        assert filled is not None  # a cache went in
        return self.llm.logits(hidden[:, 0]), filled

    def everything(self, pixels, batch: RowBatch, selection: Selection) -> ModelOutput:
        """Touches every parameter: what init runs."""
        visual = self.encode(pixels, jnp.arange(pixels.shape[0]))
        return self(visual[None], batch, selection, batch.row_source.shape[1])


def _positions(valid: Bool[Array, "B L"]) -> Int[Array, "B L"]:
    return jnp.maximum(jnp.cumsum(valid, -1) - 1, 0)


def _text_valid(batch: RowBatch) -> Bool[Array, "B L"]:
    """Text tokens that the row really contains: those that its reading order names."""
    text_len = batch.text_ids.shape[1]
    named = jnp.where((batch.row_source >= 0) & (batch.row_source < text_len), batch.row_source, text_len)
    size = named.shape[0]
    return jnp.zeros((size, text_len + 1), bool).at[jnp.arange(size)[:, None], named].set(True)[:, :text_len]


def init_params(config: VideoXLProConfig, key: jax.Array) -> Any:
    """Boxed fresh parameters (unbox with flax.linen.unbox, or see parallel/sharding.py)."""
    size, words = config.vision.image_size, config.stamps.num_tokens
    row_len = 1 + words + config.tokens_per_group
    batch = RowBatch(
        text_ids=jnp.zeros((1, 1), jnp.int32),
        query_mask=jnp.ones((1, 1), bool),
        stamp_ids=jnp.zeros((1, 1, words), jnp.int32),
        stamp_mask=jnp.ones((1, 1, words), bool),
        video_of_group=jnp.zeros((1, 1), jnp.int32),
        row_source=jnp.arange(row_len)[None],
        labels=jnp.zeros((1, 1), jnp.int32),
    )
    selection = Selection(num_keep=jnp.full((1, 1), row_len), budget=jnp.full((1,), row_len))
    pixels = jnp.zeros((config.dts.frames_per_group, size, size, 3))
    model = VideoXLProModel(config)
    return model.init(key, pixels, batch, selection, method=VideoXLProModel.everything)["params"]


def abstract_params(config: VideoXLProConfig) -> Any:
    """Shapes and types of the plain parameter tree; nothing is computed."""
    return nn.unbox(jax.eval_shape(lambda: init_params(config, jax.random.key(0))))
