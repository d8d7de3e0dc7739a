"""The start from principal components is the best linear code, not merely a code."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from tests.small_model import SMALL
from vxlpro_jax.eval.reconstruction import Pca, heldout_errors
from vxlpro_jax.models.recot import ReCoTConfig, ReCoTModel, init_recot
from vxlpro_jax.train.recot_start import joined_components, start_from_components

RNG = np.random.default_rng(0)


def clips(count, frames):
    """Features of rank 5 with a little noise, that change slowly from frame to frame."""
    mixing = np.random.default_rng(1).standard_normal((5, 16))
    slow = RNG.standard_normal((count, 1, 4, 4, 5)) + 0.3 * RNG.standard_normal((count, frames, 4, 4, 5))
    return (slow @ mixing + 0.05 * RNG.standard_normal((count, frames, 4, 4, 16)) + 2).astype(np.float32)


@pytest.mark.parametrize("compression", ["x2", "x4", "x8"])
def test_the_start_rebuilds_whole_clips_about_as_well_as_pca(compression):
    config = ReCoTConfig(compression=compression)
    dts = config.dts_of(SMALL.dts)
    train, heldout = clips(64, 8), clips(32, 8)
    params = nn.unbox(jax.jit(lambda: init_recot(config, SMALL.dts, jax.random.key(0)))())
    mean = train.mean((0, 1, 2, 3))
    measure = heldout_errors(ReCoTModel(config, SMALL.dts), mean, 0.5)
    started = start_from_components(params, train, dts)
    errors = [measure(tree, [heldout])["whole"] for tree in (params, started)]
    pca = Pca(train, dts.frames_per_group).rebuild(heldout)
    best = np.square(pca - heldout).sum() / np.square(heldout - mean).sum()
    assert errors[0] > 0.5  # fresh parameters know nothing
    assert errors[1] < 1.3 * best + 1e-3


def test_components_are_orthonormal_and_near_the_pairs_sum():
    rows = clips(64, 2).transpose(0, 2, 3, 1, 4).reshape(-1, 32).astype(np.float64)
    basis, mean = joined_components(rows)
    np.testing.assert_allclose(basis.T @ basis, np.eye(16), atol=1e-9)
    code, total = (rows - mean) @ basis, (rows - mean)[:, :16] + (rows - mean)[:, 16:]
    cosine = (code * total).sum(1) / np.linalg.norm(code, axis=1) / np.linalg.norm(total, axis=1)
    assert cosine.mean() > 0.9
