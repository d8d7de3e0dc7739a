"""The language model: Qwen2's decoder, scanned over layers, with an explicit key/value cache.

Source: SPEC 9.8.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vxlpro_jax.models.attention import AttentionKind, attend, attend_stored
from vxlpro_jax.models.layers import Embedding, Linear, RMSNorm
from vxlpro_jax.models.part_configs import ContextStretch, Qwen2Config
from vxlpro_jax.models.rope import rotate_heads
from vxlpro_jax.parallel import axes
from vxlpro_jax.parallel.axes import Rules, constrain


class KVCache(NamedTuple):
    """Keys and values of every layer, preallocated.

    keys, values [layers, B, S, K, H]. valid bool [B, S]: True = the slot holds a real token of that row. next_slot
    int32 []: where the next tokens are written; all rows share it, a shorter row leaves invalid slots between.
    """

    keys: Array
    values: Array
    valid: Array
    next_slot: Array


class SelfAttention(nn.Module):
    config: Qwen2Config
    stretch: ContextStretch | None
    attention: AttentionKind

    @nn.compact
    def __call__(self, x, stored, layer, positions, key_valid, slot):
        cfg = self.config

        def project(name, heads, axis):
            return Linear(heads * cfg.head_dim, (axes.EMBED, axis), name=name)(x).reshape(*x.shape[:2], heads, -1)

        q = rotate_heads(project("q_proj", cfg.num_heads, axes.HEADS), positions, cfg.rope_base, self.stretch)
        k = rotate_heads(project("k_proj", cfg.num_kv_heads, axes.KV_HEADS), positions, cfg.rope_base, self.stretch)
        v = project("v_proj", cfg.num_kv_heads, axes.KV_HEADS)
        if stored is None:
            mixed = attend(q, k, v, key_valid, slot)
        else:
            start = (layer, 0, slot, 0, 0)
            keys, values = (
                jax.lax.dynamic_update_slice(old, new[None].astype(old.dtype), start)
                for old, new in zip(stored, (k, v), strict=True)
            )
            stored = (keys, values)
            mixed = attend_stored(q, keys, values, layer, key_valid, slot, self.attention)
        mixed = mixed.reshape(*x.shape[:2], -1)
        return Linear(cfg.dim, (axes.HEADS, axes.EMBED), use_bias=False, name="o_proj")(mixed), stored


class SwiGlu(nn.Module):
    config: Qwen2Config

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        def up(name):
            return Linear(self.config.mlp_dim, (axes.EMBED, axes.MLP), use_bias=False, name=name)(x)

        hidden = jax.nn.silu(up("gate_proj")) * up("up_proj")
        return Linear(self.config.dim, (axes.MLP, axes.EMBED), use_bias=False, name="down_proj")(hidden)


class DecoderLayer(nn.Module):
    """One layer of the scan. The cache travels in the carry, so that it is updated in place and not copied per
    layer."""

    config: Qwen2Config
    rules: Rules
    stretch: ContextStretch | None
    attention: AttentionKind

    @nn.compact
    def __call__(self, carry, layer, positions, key_valid, slot):
        x, stored = carry
        normed = RMSNorm(self.config.norm_eps, axes.EMBED, name="input_layernorm")(x)
        attention = SelfAttention(self.config, self.stretch, self.attention, name="self_attn")
        mixed, stored = attention(normed, stored, layer, positions, key_valid, slot)
        x = x + mixed
        normed = RMSNorm(self.config.norm_eps, axes.EMBED, name="post_attention_layernorm")(x)
        x = x + SwiGlu(self.config, name="mlp")(normed)
        return (constrain(x, (axes.BATCH, axes.SEQUENCE, None), self.rules), stored), None


class Qwen2(nn.Module):
    """Decoder over embeddings; ids are embedded with `embed`, hidden states become logits with `logits`.

    stretch: for contexts beyond the trained one. attention: who reads the cache (models/attention.py); under a mesh it
    is always XLA, which knows how to split the work. Parameters "layers": of all layers, stacked, which are scanned; or
    a tuple of each layer's own (infer/layer_views.py), which run one after the other.
    """

    config: Qwen2Config
    rules: Rules = axes.UNSHARDED
    remat: bool = False
    stretch: ContextStretch | None = None
    attention: AttentionKind = "auto"

    def setup(self):
        cfg = self.config
        self.embed_tokens = Embedding(cfg.vocab_size, cfg.dim, (axes.VOCAB, axes.EMBED))
        layer = nn.remat(DecoderLayer, prevent_cse=False) if self.remat else DecoderLayer
        scanned = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=cfg.num_layers,
            metadata_params={nn.PARTITION_NAME: axes.LAYERS},
        )
        self.layers = scanned(*self._of_layer())
        self.norm = RMSNorm(cfg.norm_eps, axes.EMBED)
        if not cfg.tie_embeddings:
            self.lm_head = Linear(cfg.vocab_size, (axes.EMBED, axes.VOCAB), use_bias=False)

    def _of_layer(self) -> tuple[Qwen2Config, Rules, ContextStretch | None, AttentionKind]:
        return self.config, self.rules, self.stretch, self.attention if self.rules == axes.UNSHARDED else "xla"

    def embed(self, ids: Int[Array, "..."], dtype: DTypeLike) -> Float[Array, "... D"]:
        return self.embed_tokens(ids).astype(dtype)

    def __call__(
        self,
        x: Float[Array, "B L D"],
        positions: Int[Array, "B L"],
        valid: Bool[Array, "B L"],
        cache: KVCache | None = None,
    ) -> tuple[Float[Array, "B L D"], KVCache | None]:
        """Hidden states after the final norm. valid True = a real token (others are attended by nobody).

        With a cache the tokens are written to its next slots and see what it holds; the caller sees to it that they
        fit.
        """
        length, slot = x.shape[1], jnp.int32(0)
        if cache is None:
            stored, key_valid = None, valid
        else:
            slot = cache.next_slot
            stored = (cache.keys, cache.values)
            key_valid = jax.lax.dynamic_update_slice(cache.valid, valid, (0, slot))
        carry: Any = (x, stored)
        apart = self.get_variable("params", "layers")
        if isinstance(apart, tuple):
            layer = DecoderLayer(*self._of_layer(), parent=None)
            for number, params in enumerate(apart):
                carry, _ = layer.apply({"params": params}, carry, jnp.int32(number), positions, key_valid, slot)
        else:
            layer_numbers = jnp.arange(self.config.num_layers)
            carry, _ = self.layers(carry, layer_numbers, positions, key_valid, slot)
        x, stored = carry
        if cache is not None:
            keys, values = stored
            cache = KVCache(keys, values, key_valid, slot + length)
        return self.norm(x), cache

    def logits(self, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Scores of the next token, in float32."""
        if self.config.tie_embeddings:
            return (hidden @ self.embed_tokens.table().astype(hidden.dtype).T).astype(jnp.float32)
        return self.lm_head(hidden).astype(jnp.float32)
