"""Dense layers and norms with logical axes: the seam between our modules and Linen.

Source: SPEC 3, 7, 9.8. Norms are computed in float32 and cast back.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Axes = tuple[str | None, ...]
DEFAULT_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


def _born(init, axes: Axes):
    return nn.with_logical_partitioning(init, axes)


class Linear(nn.Module):
    """x W + b over the last axis; the kernel is (in, out), named `axes`. A low-rank addition to W is used where the
    parameters hold one."""

    features: int
    axes: Axes
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = DEFAULT_INIT

    @nn.compact
    def __call__(self, x: Float[Array, "... in_dim"]) -> Float[Array, "... out_dim"]:
        kernel = self.param("kernel", _born(self.kernel_init, self.axes), (x.shape[-1], self.features))
        y = x @ kernel.astype(x.dtype)
        if self.has_variable("params", "lora"):  # train/lora.py puts it beside a kernel
            lora = self.get_variable("params", "lora")
            y = y + lora["scale"].astype(x.dtype) * (x @ lora["down"].astype(x.dtype) @ lora["up"].astype(x.dtype))
        if self.use_bias:
            y = y + self.param("bias", _born(nn.initializers.zeros, self.axes[-1:]), (self.features,)).astype(x.dtype)
        return y


class Embedding(nn.Module):
    """A table of rows [num_rows, dim], looked up by integer ids or read whole."""

    num_rows: int
    dim: int
    axes: Axes

    def setup(self):
        self.embedding = self.param(
            "embedding", _born(nn.initializers.normal(0.02), self.axes), (self.num_rows, self.dim)
        )

    def __call__(self, ids: Int[Array, "..."]) -> Float[Array, "... dim"]:
        return jnp.take(self.embedding, ids, axis=0)

    def table(self) -> Float[Array, "rows dim"]:
        return self.embedding


class LayerNorm(nn.Module):
    """Mean and variance over the last axis, with scale and bias."""

    eps: float
    axis: str

    @nn.compact
    def __call__(self, x: Float[Array, "... dim"]) -> Float[Array, "... dim"]:
        scale = self.param("scale", _born(nn.initializers.ones, (self.axis,)), x.shape[-1:])
        bias = self.param("bias", _born(nn.initializers.zeros, (self.axis,)), x.shape[-1:])
        x32 = x.astype(jnp.float32)
        centred = x32 - x32.mean(-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.eps)
        return (normed * scale + bias).astype(x.dtype)


class RMSNorm(nn.Module):
    """Root mean square over the last axis, with a scale and no bias."""

    eps: float
    axis: str

    @nn.compact
    def __call__(self, x: Float[Array, "... dim"]) -> Float[Array, "... dim"]:
        scale = self.param("scale", _born(nn.initializers.ones, (self.axis,)), x.shape[-1:])
        x32 = x.astype(jnp.float32)
        normed = x32 * jax.lax.rsqrt(jnp.square(x32).mean(-1, keepdims=True) + self.eps)
        return normed.astype(x.dtype) * scale.astype(x.dtype)


class GroupNorm(nn.Module):
    """Channels-last group norm: statistics per sample (first axis) and group of channels, over all axes between."""

    num_groups: int
    eps: float
    axis: str

    @nn.compact
    def __call__(self, x: Float[Array, "samples ... dim"]) -> Float[Array, "samples ... dim"]:
        dim = x.shape[-1]
        scale = self.param("scale", _born(nn.initializers.ones, (self.axis,)), (dim,))
        bias = self.param("bias", _born(nn.initializers.zeros, (self.axis,)), (dim,))
        grouped = x.astype(jnp.float32).reshape(x.shape[0], -1, self.num_groups, dim // self.num_groups)
        centred = grouped - grouped.mean((1, 3), keepdims=True)
        normed = centred * jax.lax.rsqrt(jnp.square(centred).mean((1, 3), keepdims=True) + self.eps)
        return (normed.reshape(x.shape) * scale + bias).astype(x.dtype)


def gelu_erf(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.gelu(x, approximate=True)
