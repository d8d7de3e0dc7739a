"""SigLIP's vision tower without its last layer and pooling head, and the resize of its token grid.

Source: SPEC 3 and 4. The features are the residual stream before post_layernorm, whose weights are kept only so that
checkpoints round-trip.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vxlpro_jax.models.attention import AttentionKind, attend_to_all
from vxlpro_jax.models.layers import DEFAULT_INIT, Embedding, LayerNorm, Linear, gelu_tanh
from vxlpro_jax.models.part_configs import SiglipConfig
from vxlpro_jax.parallel import axes
from vxlpro_jax.parallel.axes import Rules, constrain


class SelfAttention(nn.Module):
    config: SiglipConfig
    rules: Rules
    attention: AttentionKind

    @nn.compact
    def __call__(self, x: Float[Array, "T P E"]) -> Float[Array, "T P E"]:
        heads = self.config.num_heads
        inward = (axes.VISION, axes.VISION_HEADS)
        q, k, v = (
            Linear(self.config.dim, inward, name=name)(x).reshape(*x.shape[:2], heads, -1)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        names = (axes.GROUPS, None, axes.VISION_HEADS, None)
        mixed = attend_to_all(q, k, v, names, self.rules, self.attention)
        return Linear(self.config.dim, inward[::-1], name="out_proj")(mixed.reshape(x.shape))


class Mlp(nn.Module):
    config: SiglipConfig

    @nn.compact
    def __call__(self, x: Float[Array, "T P E"]) -> Float[Array, "T P E"]:
        hidden = gelu_tanh(Linear(self.config.mlp_dim, (axes.VISION, axes.VISION_MLP), name="fc1")(x))
        return Linear(self.config.dim, (axes.VISION_MLP, axes.VISION), name="fc2")(hidden)


class EncoderLayer(nn.Module):
    config: SiglipConfig
    rules: Rules
    attention: AttentionKind

    @nn.compact
    def __call__(self, x: Float[Array, "T P E"], _) -> tuple[Float[Array, "T P E"], None]:
        def norm(name):
            return LayerNorm(self.config.norm_eps, axes.VISION, name=name)

        x = x + SelfAttention(self.config, self.rules, self.attention, name="self_attn")(norm("layer_norm1")(x))
        x = x + Mlp(self.config, name="mlp")(norm("layer_norm2")(x))
        return constrain(x, (axes.GROUPS, None, None), self.rules), None


class PatchEmbedding(nn.Module):
    """A convolution whose stride is its kernel, written as one matrix product."""

    config: SiglipConfig

    @nn.compact
    def __call__(self, pixels: Float[Array, "T S S 3"]) -> Float[Array, "T P E"]:
        patch, grid, dim = self.config.patch_size, self.config.grid_size, self.config.dim
        kernel_axes = (None, None, None, axes.VISION)
        kernel = self.param(
            "kernel", nn.with_logical_partitioning(DEFAULT_INIT, kernel_axes), (patch, patch, pixels.shape[-1], dim)
        )
        bias = self.param("bias", nn.with_logical_partitioning(nn.initializers.zeros, (axes.VISION,)), (dim,))
        used = pixels[:, : grid * patch, : grid * patch]
        patches = used.reshape(-1, grid, patch, grid, patch, pixels.shape[-1]).transpose(0, 1, 3, 2, 4, 5)
        flat = patches.reshape(pixels.shape[0], grid * grid, -1)
        return flat @ kernel.reshape(-1, dim).astype(pixels.dtype) + bias.astype(pixels.dtype)


class SiglipTower(nn.Module):
    """pixels in [-1, 1], channels last -> the residual stream after the last layer."""

    config: SiglipConfig
    rules: Rules = axes.UNSHARDED
    remat: bool = False
    attention: AttentionKind = "auto"

    @nn.compact
    def __call__(self, pixels: Float[Array, "T S S 3"]) -> Float[Array, "T P E"]:
        cfg = self.config
        if pixels.shape[1:3] != (cfg.image_size, cfg.image_size):
            raise ValueError(
                f"frames of {pixels.shape[1:3]} pixels: the tower takes {cfg.image_size} x {cfg.image_size}; "
                "data/image_transforms.py resizes them."
            )
        x = PatchEmbedding(cfg, name="patch_embedding")(pixels)
        table = Embedding(cfg.grid_size**2, cfg.dim, (axes.POSITIONS, axes.VISION), name="position_embedding").table()
        x = constrain(x + table.astype(x.dtype), (axes.GROUPS, None, None), self.rules)
        layer = nn.remat(EncoderLayer, prevent_cse=False) if self.remat else EncoderLayer
        scanned = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=cfg.num_layers,
            metadata_params={nn.PARTITION_NAME: axes.LAYERS},
        )
        x, _ = scanned(cfg, self.rules, self.attention, name="layers")(x, None)
        LayerNorm(cfg.norm_eps, axes.VISION, name="post_layernorm")(x[:0])  # parameters only: see the caption
        return x


def _two_tap_weights(source: int, target: int) -> np.ndarray:
    """[target, source] weights of plain bilinear sampling with half-pixel centres and no antialiasing (SPEC 4)."""
    position = np.maximum(0.0, (np.arange(target) + 0.5) * source / target - 0.5)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, source - 1)
    weight = position - low
    matrix = np.zeros((target, source))
    np.add.at(matrix, (np.arange(target), low), 1 - weight)
    np.add.at(matrix, (np.arange(target), high), weight)
    return matrix.astype(np.float32)


def resize_grid(features: Float[Array, "T P E"], grid_size: int) -> Float[Array, "T g g E"]:
    """The square token grid of each frame, bilinearly resized to grid_size x grid_size, in float32 and cast back."""
    source = int(np.sqrt(features.shape[1]))
    grid = features.reshape(features.shape[0], source, source, features.shape[2])
    if source == grid_size:
        return grid
    weights = jnp.asarray(_two_tap_weights(source, grid_size))
    resized = jnp.einsum("ih,jw,thwe->tije", weights, weights, grid.astype(jnp.float32), precision="highest")
    return resized.astype(features.dtype)
