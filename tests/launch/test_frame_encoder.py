"""Both ways of making a vector of a frame give the cosine that they promise; the tower is the model's own."""

import numpy as np
import pytest

from launch.frame_encoder import load_encoder
from vxlpro_jax.data.pruning import mean_pairwise_similarity

FRAMES = np.random.default_rng(2).integers(0, 256, (4, 56, 56, 3), np.uint8)


def test_patches_are_compared_one_by_one_and_means_as_a_whole() -> None:
    patches, mean = (load_encoder("", "", pooling) for pooling in ("patches", "mean"))
    assert patches.fingerprint == mean.fingerprint and patches.dtype == "float32"
    unit = patches(FRAMES).reshape(4, -1, 128)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=-1), 1, atol=1e-5)
    by_patch = np.mean([(unit[a] * unit[b]).sum(-1).mean() for a in range(4) for b in range(a)])
    assert mean_pairwise_similarity(patches(FRAMES)) == pytest.approx(by_patch, abs=1e-5)
    pooled = mean(FRAMES)
    assert pooled.shape == (4, 128) and pooled.dtype == np.float32
    # Frames do not see each other: one by one gives the same features.
    again = np.concatenate([mean(FRAMES[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(again, pooled, rtol=1e-3, atol=1e-3)


def test_other_types_are_refused_and_change_the_fingerprint() -> None:
    with pytest.raises(ValueError, match="config.dtype='fp8': one of float32"):
        load_encoder("", "fp8", "mean")
    with pytest.raises(ValueError, match="no_such_model"):
        load_encoder("/no_such_model", "", "mean")
    assert load_encoder("", "bfloat16", "mean").fingerprint != load_encoder("", "float32", "mean").fingerprint
