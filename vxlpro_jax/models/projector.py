"""From the vision width to the LLM's, then pooling of the token grid.

Source: SPEC 8. The projector runs before the pooling (quirk 17).
"""

import flax.linen as nn
from jaxtyping import Array, Float

from vxlpro_jax.models.layers import Linear, gelu_erf
from vxlpro_jax.models.part_configs import ProjectorConfig
from vxlpro_jax.parallel import axes


class Projector(nn.Module):
    """Two linear layers with a GELU (erf) between."""

    config: ProjectorConfig

    @nn.compact
    def __call__(self, x: Float[Array, "... E"]) -> Float[Array, "... D"]:
        hidden = gelu_erf(Linear(self.config.dim, (axes.VISION, axes.MLP), name="fc1")(x))
        return Linear(self.config.dim, (axes.MLP, axes.EMBED), name="fc2")(hidden)


def pool_grid(grid: Float[Array, "G h w D"], config: ProjectorConfig) -> Float[Array, "G P D"]:
    """Pools squares of pool_stride x pool_stride tokens and flattens row by row."""
    groups, height, width, dim = grid.shape
    stride = config.pool_stride
    squares = grid.reshape(groups, height // stride, stride, width // stride, stride, dim)
    pooled = squares.mean((2, 4)) if config.pool_mode == "average" else squares.max((2, 4))
    return pooled.reshape(groups, -1, dim)
