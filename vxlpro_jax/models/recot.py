"""Reconstructive token compression: hide tokens of a frozen tower, compress the rest with the DTS, rebuild them all.

Source: paper 3.2 (frozen tower, masking, DTS, a decoder of half the encoder's parameters, mean squared error to the
tower's tokens); the decoder's inside is ours: a linear map of the code, and what the DTS's own blocks, narrower and in
reverse order, add to it.
"""

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vxlpro_jax.models.dts import DynamicTokenSynthesizer, SpatialBlock, TemporalBlock, pack_frames
from vxlpro_jax.models.layers import Linear
from vxlpro_jax.models.part_configs import Compression, DtsConfig, with_compression
from vxlpro_jax.models.sgm import Masking, SemanticMasker, SgmConfig
from vxlpro_jax.parallel import axes
from vxlpro_jax.parallel.axes import Rules, constrain

DECODER_SHARE = 0.5  # of the encoder's parameters (paper 3.2)
DECODER_TOLERANCE = 0.05  # of that share
WIDTH_STEPS = ((512, 8), (128, 4), (48, 2), (1, 1))  # (DTS at least so wide, step of the decoder's width)


@dataclass(frozen=True)
class ReCoTConfig:
    """What the paper leaves open about the stage; each default with its reason. Masking: SgmConfig.

    compression: "x4" is the paper's main row and the released model. "none" has nothing to train and is refused here.
    frame_packing: "paper": frames lie along time; trained anew, events of a single frame are learnt far better that
        way (docs/tiny.md). "released": only to go on from released weights. Weights of the two are not
        interchangeable.
    relative_term: "textbook" is what the formula says; "released" is its transpose, for released weights.
    loss_positions: "all": a visible token has to survive the bottleneck too, for the LLM reads the code of unmasked
        frames; "masked": what masked autoencoders usually do.
    visible_weight: of a visible token beside a masked one's 1 when loss_positions is "all": at 0.1 the masked ones
        still lead although they are the harder ones.
    """

    compression: Compression = "x4"
    frame_packing: Literal["released", "paper"] = "paper"
    relative_term: Literal["released", "textbook"] = "textbook"
    loss_positions: Literal["all", "masked"] = "all"
    visible_weight: float = 0.1
    sgm: SgmConfig = field(default_factory=SgmConfig)

    def __post_init__(self):
        if self.compression == "none":
            raise ValueError(
                "recot.compression='none': a DTS without stages has nothing to learn; 'x2', 'x4' or 'x8' is accepted"
            )
        if self.loss_positions == "all" and self.visible_weight <= 0:
            raise ValueError(
                f"recot.visible_weight={self.visible_weight}: a weight above 0 is accepted; without visible tokens the "
                "loss is recot.loss_positions='masked'"
            )

    def dts_of(self, dts: DtsConfig) -> DtsConfig:
        """A model's DTS as this stage trains it."""
        switched = replace(dts, frame_packing=self.frame_packing, relative_term=self.relative_term)
        return with_compression(switched, self.compression)


class DoublingConv(nn.Module):
    """3x3x3 convolution that doubles time: HalvingConv's mirror, with its three taps in time dealt out in turn.

    A moment's first half is made of the middle tap; its second half of the taps of the moment and of the next one
    (the last moment is its own next). Spatial borders are repeated.
    """

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "G t h w C"]) -> Float[Array, "G t2 h w E"]:
        kernel_axes = (axes.TAPS, axes.TAPS, axes.TAPS, axes.DTS, axes.DTS_OUT)
        kernel_shape = (3, 3, 3, x.shape[-1], self.features)
        # In space and channels alone: the second half adds two taps, the first has one.
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=(1, 2, 3), batch_axis=(0,))
        kernel = self.param("kernel", nn.with_logical_partitioning(init, kernel_axes), kernel_shape)
        bias = self.param(
            "bias", nn.with_logical_partitioning(nn.initializers.zeros, (axes.DTS_OUT,)), (self.features,)
        )
        groups, time, height, width, _ = x.shape
        padded = jnp.pad(x, ((0, 0), (0, 1), (1, 1), (1, 1), (0, 0)), mode="edge")
        shifts = [padded[:, :, dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)]
        columns = jnp.concatenate(shifts, axis=-1)
        taps = kernel.reshape(3, -1, self.features).astype(x.dtype)

        def tap(number, moments):
            return jnp.einsum("gthwc,cd->gthwd", moments, taps[number], preferred_element_type=jnp.float32)

        now, coming = columns[:, :time], columns[:, 1:]
        halves = jnp.stack([tap(1, now), tap(0, now) + tap(2, coming)], axis=2) + bias
        return halves.reshape(groups, 2 * time, height, width, self.features).astype(x.dtype)


class Decoder(nn.Module):
    """One grid of tokens per group -> the tokens of its frames: `direct`, linear in the token at the same place, plus a
    correction by blocks `dim` wide, zero at birth."""

    config: DtsConfig
    dim: int
    rules: Rules = axes.UNSHARDED

    @nn.compact
    def __call__(self, code: Float[Array, "G h w E"]) -> Float[Array, "G t h w E"]:
        time, full = self.config.frames_per_group, code.shape[-1]
        direct = Linear(time * full, (axes.DTS, axes.DTS_OUT), name="direct")(code)
        direct = direct.reshape(*code.shape[:3], time, full).transpose(0, 3, 1, 2, 4)
        groups = max(n for n in range(1, self.config.num_norm_groups + 1) if self.dim % n == 0)
        inner = replace(self.config, dim=self.dim, num_norm_groups=groups)
        x = Linear(self.dim, (axes.DTS, axes.DTS_OUT), name="narrow")(code)[:, None]
        for stage in range(self.config.num_stages):
            x = constrain(x, (axes.GROUPS, None, None, None, None), self.rules)
            x = DoublingConv(self.dim, name=f"conv_{stage}")(x)
            x = TemporalBlock(inner, name=f"temporal_{stage}")(x)
            x = SpatialBlock(inner, name=f"spatial_{stage}")(x)
        outward = Linear(full, (axes.DTS, axes.DTS_OUT), kernel_init=nn.initializers.zeros, name="widen")
        return direct + outward(x)


class ReCoTOutput(NamedTuple):
    """code [N, G, g, g, E]: one grid per group. rebuilt [N, t, g, g, E]: as the tower's features."""

    code: Array
    rebuilt: Array


class ReCoTModel(nn.Module):
    """Linen module over DTS, masker and decoder; the tower stands outside, for it is frozen."""

    config: ReCoTConfig
    dts_config: DtsConfig
    rules: Rules = axes.UNSHARDED
    dtype: DTypeLike = jnp.float32

    def setup(self):
        dts = self.config.dts_of(self.dts_config)
        self.dts = DynamicTokenSynthesizer(dts, self.rules)
        self.sgm = SemanticMasker(self.config.sgm)
        self.decoder = Decoder(dts, decoder_dim(dts), self.rules)

    def mask(
        self,
        features: Float[Array, "N t g g E"],
        is_image: Bool[Array, "N"],
        is_whole: Bool[Array, "N"],
        noise: Float[Array, "N t P"],
    ) -> tuple[Masking, Float[Array, "E"]]:
        """Which tokens are hidden, and the token in their place; arguments as of SemanticMasker."""
        flat = features.astype(self.dtype).reshape(*features.shape[:2], -1, features.shape[-1])
        return self.sgm(flat, is_image, is_whole, noise)

    def rebuild(
        self, features: Float[Array, "N t g g E"], strength: Float[Array, "N t P"], mask_token: Float[Array, "E"]
    ) -> ReCoTOutput:
        """Code and reconstruction of clips of whole groups; strength 1 hides a token, 0 shows it.

        Raises ValueError unless the frames come in whole groups.
        """
        config = self.config.dts_of(self.dts_config)
        size, time = features.shape[:2]
        x = features.astype(self.dtype)
        hidden = strength.reshape(*x.shape[:-1], 1).astype(x.dtype)
        x = x + hidden * (mask_token.astype(x.dtype) - x)
        if time % config.frames_per_group:
            raise ValueError(
                f"clips of {time} frames: a multiple of frames_per_group={config.frames_per_group} is accepted "
                "(recot.compression)"
            )
        code = self.dts(pack_frames(x.reshape(-1, *x.shape[2:]), config))
        rebuilt = self.decoder(code).reshape(features.shape)
        return ReCoTOutput(code.reshape(size, -1, *code.shape[1:]), rebuilt)

    def __call__(
        self,
        features: Float[Array, "N t g g E"],
        is_image: Bool[Array, "N"],
        is_whole: Bool[Array, "N"],
        noise: Float[Array, "N t P"],
    ) -> tuple[ReCoTOutput, Masking]:
        """The training path: mask, then rebuild."""
        masking, mask_token = self.mask(features, is_image, is_whole, noise)
        return self.rebuild(features, masking.strength, mask_token), masking

    def encode(self, features: Float[Array, "N t g g E"]) -> Float[Array, "N G g g E"]:
        """Code of unmasked clips: what the projector will read."""
        flat = features.astype(self.dtype).reshape(-1, *features.shape[2:])
        code = self.dts(pack_frames(flat, self.config.dts_of(self.dts_config)))
        return code.reshape(features.shape[0], -1, *code.shape[1:])


def init_recot(config: ReCoTConfig, dts: DtsConfig, key: jax.Array) -> Any:
    """Boxed fresh parameters "dts", "sgm", "decoder"."""
    time, grid = config.dts_of(dts).frames_per_group, dts.grid_size
    features = jnp.zeros((1, time, grid, grid, dts.dim))
    flag, noise = jnp.zeros(1, bool), jnp.zeros((1, time, grid * grid))
    return ReCoTModel(config, dts).init(key, features, flag, flag, noise)["params"]


def count_params(tree: Any) -> int:
    """Numbers in a tree of arrays or of their abstract shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(nn.unbox(tree)))


@cache
def decoder_dim(config: DtsConfig) -> int:
    """The decoder's width at which it has DECODER_SHARE of the DTS's parameters.

    Raises ValueError when no width comes within DECODER_TOLERANCE of it.
    """
    key, grid, dim = jax.random.key(0), config.grid_size, config.dim
    packed = jax.ShapeDtypeStruct((1, config.frames_per_group, grid, grid, dim), jnp.float32)
    encoder = count_params(jax.eval_shape(DynamicTokenSynthesizer(config).init, key, packed))
    code = jax.ShapeDtypeStruct((1, grid, grid, dim), jnp.float32)

    @cache
    def fault(width: int) -> float:
        share = count_params(jax.eval_shape(Decoder(config, width).init, key, code)) / encoder
        return abs(share / DECODER_SHARE - 1)

    step = next(step for least, step in WIDTH_STEPS if dim >= least)
    width = max(step, round(DECODER_SHARE**0.5 * dim / step) * step)
    while fault(width) > min(fault(near) for near in (width + step, max(step, width - step))):
        width = min((width + step, max(step, width - step)), key=fault)
    if fault(width) > DECODER_TOLERANCE:
        raise ValueError(
            f"a DTS {dim} wide: a decoder {width} wide comes nearest to {DECODER_SHARE} of its parameters and "
            f"misses it by {fault(width):.1%}; at most {DECODER_TOLERANCE:.0%} is accepted (models/recot.py)"
        )
    return width
