"""Dynamic Token Synthesizer: the tokens of a group of frames become one frame's worth.

Source: SPEC 6 and 7 (the reference's SAE), paper 3.2. Inside, arrays are channels-last: [groups, time, height, width,
channels].
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vxlpro_jax.models.layers import GroupNorm, Linear
from vxlpro_jax.models.part_configs import DtsConfig
from vxlpro_jax.parallel import axes
from vxlpro_jax.parallel.axes import Rules, constrain

CPU_GATHERED = 2**23  # numbers that a convolution gathers at once, beyond which a CPU takes a group at a time: 32 MiB


def pack_frames(features: Float[Array, "T h w E"], config: DtsConfig) -> Float[Array, "G t h w E"]:
    """Cuts frames into groups and lays each out along the axis that the DTS calls time (DtsConfig.frame_packing).

    Raises ValueError unless the frames come in whole groups.
    """
    size = config.frames_per_group
    if features.shape[0] % size:
        raise ValueError(
            f"{features.shape[0]} frames {list(features.shape)}: frames come in groups of frames_per_group={size}; "
            "data/frame_sampling.py fills the last group."
        )
    groups = features.reshape(-1, size, *features.shape[1:])
    if config.frame_packing == "paper":
        return groups
    per_position = groups.transpose(0, 2, 3, 1, 4)  # [G, h, w, frame, channel], reread as [G, h, w, channel, time]
    reread = per_position.reshape(*per_position.shape[:3], features.shape[-1], size)
    return reread.transpose(0, 4, 1, 2, 3)


class SpatialBlock(nn.Module):
    """Single-head attention over the positions of each time slot, with a residual (SPEC 7.1)."""

    config: DtsConfig

    @nn.compact
    def __call__(self, x: Float[Array, "G t h w E"]) -> Float[Array, "G t h w E"]:
        dim = x.shape[-1]
        normed = GroupNorm(self.config.num_norm_groups, self.config.norm_eps, axes.DTS, name="norm")(x)
        flat = normed.reshape(x.shape[0] * x.shape[1], -1, dim)
        q, k, v = (Linear(dim, (axes.DTS, axes.DTS_OUT), name=name)(flat) for name in "qkv")
        weights = jax.nn.softmax(jnp.einsum("nic,njc->nij", q, k) * dim**-0.5, axis=-1)  # in the working type
        mixed = Linear(dim, (axes.DTS_OUT, axes.DTS), name="proj_out")(weights @ v)
        return x + mixed.reshape(x.shape)


class TemporalBlock(nn.Module):
    """Single-head attention over time at each position, with relative terms and a residual (SPEC 7.2).

    Differs: qkv and proj_out are both zero at birth in the reference; here only proj_out is, so that the block still
    starts as the identity, and its inside gets a gradient as soon as proj_out has moved.
    """

    config: DtsConfig

    @nn.compact
    def __call__(self, x: Float[Array, "G t h w E"]) -> Float[Array, "G t h w E"]:
        groups, time, height, width, dim = x.shape
        clip = self.config.max_relative_offset
        flat = x.transpose(0, 2, 3, 1, 4).reshape(-1, time, dim)
        normed = GroupNorm(self.config.num_norm_groups, self.config.norm_eps, axes.DTS, name="norm")(flat)
        q, k, v = jnp.split(Linear(3 * dim, (axes.DTS, axes.DTS_OUT), name="qkv")(normed), 3, axis=-1)

        def table(name):
            born = nn.with_logical_partitioning(nn.initializers.normal(0.02), (axes.POSITIONS, axes.DTS))
            rows = self.param(name, born, (2 * clip + 1, dim))
            offset = jnp.arange(time)[None, :] - jnp.arange(time)[:, None]  # [i, j]: j - i
            return rows[jnp.clip(offset, -clip, clip) + clip].astype(x.dtype)

        scale = dim**-0.25
        relative = jnp.einsum("nic,ijc->nij", q * scale, table("relative_position_k"))
        if self.config.relative_term == "released":
            relative = relative.swapaxes(1, 2)
        logits = jnp.einsum("nic,njc->nij", q * scale, k * scale) + relative
        weights = jax.nn.softmax(logits.astype(jnp.float32), axis=-1).astype(x.dtype)
        mixed = weights @ v + jnp.einsum("nij,ijc->nic", weights, table("relative_position_v"))
        out = Linear(dim, (axes.DTS_OUT, axes.DTS), kernel_init=nn.initializers.zeros, name="proj_out")(mixed)
        return x + out.reshape(groups, height, width, time, dim).transpose(0, 3, 1, 2, 4)


class HalvingConv(nn.Module):
    """3x3x3 convolution that halves time; the border is repeated, in time only before (SPEC 7.3).

    Written as matrix products: the gradient of XLA's own 3-D convolution is very slow on CPU.
    """

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "G t h w C"]) -> Float[Array, "G t2 h w E"]:
        kernel_axes = (axes.TAPS, axes.TAPS, axes.TAPS, axes.DTS, axes.DTS_OUT)
        kernel_shape = (3, 3, 3, x.shape[-1], self.features)
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=(0, 1, 2, 3))
        kernel = self.param("kernel", nn.with_logical_partitioning(init, kernel_axes), kernel_shape)
        bias = self.param(
            "bias", nn.with_logical_partitioning(nn.initializers.zeros, (axes.DTS_OUT,)), (self.features,)
        )
        padded = jnp.pad(x, ((0, 0), (1, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        return (_convolve(padded, kernel.astype(x.dtype)) + bias).astype(x.dtype)


@jax.custom_vjp
def _convolve(padded, kernel):
    """float32 [G, t2, h, w, E]; group by group on a CPU with much to gather, where no gradient is asked for."""
    if 9 * padded.size < CPU_GATHERED:
        return _by_time_tap(padded, kernel)
    return jax.lax.platform_dependent(padded, kernel, cpu=_group_by_group, default=_by_time_tap)


_convolve.defvjp(lambda *given: jax.vjp(_by_time_tap, *given), lambda pull_back, d_out: pull_back(d_out))


def _by_time_tap(padded, kernel):
    """One product per tap in time, of the nine neighbours side by side."""
    height, width, num_taps = padded.shape[2] - 2, padded.shape[3] - 2, padded.shape[1] - 2
    shifts = [padded[:, :, dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)]
    columns = jnp.concatenate(shifts, axis=-1)
    taps = kernel.reshape(3, -1, kernel.shape[-1])
    return sum(_product(columns[:, tap : tap + num_taps : 2], taps[tap]) for tap in range(3))


def _group_by_group(padded, kernel):
    """One product per tap, a group after the other: what is gathered stays in the processor's cache."""
    height, width, num_taps = padded.shape[2] - 2, padded.shape[3] - 2, padded.shape[1] - 2

    def one(group):
        return sum(
            _product(group[dt : dt + num_taps : 2, dy : dy + height, dx : dx + width], kernel[dt, dy, dx])
            for dt, dy, dx in np.ndindex(3, 3, 3)
        )

    return jax.lax.map(one, padded)


def _product(x, kernel):
    return jnp.einsum("...c,cd->...d", x, kernel, preferred_element_type=jnp.float32)


class Stage(nn.Module):
    config: DtsConfig

    @nn.compact
    def __call__(self, x: Float[Array, "G t h w E"]) -> Float[Array, "G t2 h w E"]:
        x = SpatialBlock(self.config, name="spatial")(x)
        x = TemporalBlock(self.config, name="temporal")(x)
        return HalvingConv(x.shape[-1], name="conv")(x)


class DynamicTokenSynthesizer(nn.Module):
    """Packed groups (pack_frames) -> one grid of tokens per group."""

    config: DtsConfig
    rules: Rules = axes.UNSHARDED

    @nn.compact
    def __call__(self, packed: Float[Array, "G t h w E"]) -> Float[Array, "G h w E"]:
        shape = (self.config.frames_per_group, packed.shape[-1])
        # A single frame has no time to be told: without stages the DTS is born as the identity (Table 5, first row).
        init = nn.initializers.normal(0.02) if self.config.num_stages else nn.initializers.zeros
        born = nn.with_logical_partitioning(init, (axes.TAPS, axes.DTS))
        encoding = self.param("temporal_encoding", born, shape)
        x = packed + encoding[None, :, None, None, :].astype(packed.dtype)
        for stage in range(self.config.num_stages):
            x = constrain(x, (axes.GROUPS, None, None, None, None), self.rules)
            x = Stage(self.config, name=f"stage_{stage}")(x)
        return x[:, 0]
