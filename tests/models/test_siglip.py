"""The tower's borders and the resize of its grid; its numbers are held by tests/test_golden.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.small_model import SMALL, small_params
from vxlpro_jax.models.siglip import SiglipTower, resize_grid

PARAMS = {"params": small_params()["vision_tower"]}
PIXELS = np.random.default_rng(0).standard_normal((2, 11, 11, 3)).astype(np.float32)
TOWER = jax.jit(SiglipTower(SMALL.vision).apply)


def test_left_over_pixels_are_ignored_and_all_others_are_seen():
    base = np.asarray(TOWER(PARAMS, PIXELS))
    assert base.shape == (2, 25, 16)
    changed = PIXELS.copy()
    changed[:, 10:] = 9
    changed[:, :, 10:] = 9
    np.testing.assert_array_equal(TOWER(PARAMS, changed), base)
    changed[0, 9, 9, 2] += 1
    assert (np.asarray(TOWER(PARAMS, changed))[0] != base[0]).all(-1).any()


def test_frames_do_not_see_each_other():
    both = np.asarray(TOWER(PARAMS, PIXELS))
    twice = np.asarray(TOWER(PARAMS, PIXELS[[1, 1]]))
    np.testing.assert_allclose(twice[0], both[1], atol=1e-5)


def test_frames_of_another_size_raise():
    with pytest.raises(ValueError, match=r"\(12, 12\) pixels: the tower takes 11 x 11"):
        SiglipTower(SMALL.vision).apply(PARAMS, jnp.zeros((1, 12, 12, 3)))


def test_remat_changes_no_gradient_and_the_last_norm_gets_none():
    def loss(remat, params):
        return (SiglipTower(SMALL.vision, remat=remat).apply(params, jnp.asarray(PIXELS)) ** 2).mean()

    grad = jax.jit(jax.grad(loss, argnums=1), static_argnums=0)
    plain, again = grad(False, PARAMS), grad(True, PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), plain, again)
    norms = jax.tree.map(lambda leaf: float(np.abs(leaf).max()), plain["params"])
    assert norms.pop("post_layernorm") == {"scale": 0, "bias": 0}
    assert all(value > 0 for value in jax.tree.leaves(norms))


def test_resize_is_two_tap_bilinear_without_antialias():
    """SPEC 4, one number at a time, from 27 to 24 and back up."""
    for source, target in ((27, 24), (24, 27), (9, 3)):
        x = np.random.default_rng(1).standard_normal((1, source * source, 2)).astype(np.float32)
        grid = x.reshape(source, source, 2)
        ours = np.asarray(resize_grid(jnp.asarray(x), target))
        for row, column in ((0, 0), (1, target - 1), (target - 1, target // 2), (target - 1, target - 1)):
            expected = np.zeros(2)
            taps = []
            for index in (row, column):
                place = max(0.0, (index + 0.5) * source / target - 0.5)
                low = int(place)
                taps.append([(low, 1 - (place - low)), (min(low + 1, source - 1), place - low)])
            for y, wy in taps[0]:
                for x_at, wx in taps[1]:
                    expected += wy * wx * grid[y, x_at]
            np.testing.assert_allclose(ours[0, row, column], expected, atol=1e-5)


def test_a_grid_of_the_right_size_is_left_alone():
    x = np.random.default_rng(1).standard_normal((2, 16, 3)).astype(np.float32)
    np.testing.assert_array_equal(resize_grid(jnp.asarray(x), 4), x.reshape(2, 4, 4, 3))
