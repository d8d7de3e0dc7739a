"""The projector's formula and both ways of pooling."""

import math
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from tests.small_model import SMALL, small_params
from vxlpro_jax.models.projector import Projector, pool_grid

RNG = np.random.default_rng(0)


def test_two_layers_with_an_erf_gelu_between():
    params = small_params()["projector"]
    x = RNG.standard_normal((3, 16)).astype(np.float32)
    hidden = x @ np.asarray(params["fc1"]["kernel"]) + np.asarray(params["fc1"]["bias"])
    hidden = hidden / 2 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    expected = hidden @ np.asarray(params["fc2"]["kernel"]) + np.asarray(params["fc2"]["bias"])
    np.testing.assert_allclose(
        Projector(SMALL.projector).apply({"params": params}, jnp.asarray(x)), expected, atol=1e-5
    )


@pytest.mark.parametrize("mode", ["average", "max"])
@pytest.mark.parametrize("stride", [2, 3])
def test_squares_are_pooled_row_by_row(mode, stride):
    grid = RNG.standard_normal((2, 6, 6, 5)).astype(np.float32)
    pooled = pool_grid(jnp.asarray(grid), replace(SMALL.projector, pool_stride=stride, pool_mode=mode))
    side = 6 // stride
    assert pooled.shape == (2, side * side, 5)
    for row, column in np.ndindex(side, side):
        square = grid[:, row * stride : (row + 1) * stride, column * stride : (column + 1) * stride]
        expected = square.mean((1, 2)) if mode == "average" else square.max((1, 2))
        np.testing.assert_allclose(pooled[:, row * side + column], expected, atol=1e-6)
