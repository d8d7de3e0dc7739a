"""The baselines are what they are called, and errors are shares of the variance whatever the chunks."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from tests.small_model import SMALL
from vxlpro_jax.eval.reconstruction import (
    Pca,
    baseline_errors,
    by_group,
    clip_codes,
    heldout_errors,
    random_mask,
    repeat_first,
    repeat_mean,
)
from vxlpro_jax.models.recot import ReCoTConfig, ReCoTModel, init_recot

RNG = np.random.default_rng(0)
CLIPS = (RNG.standard_normal((40, 8, 4, 4, 16)) + 1.5).astype(np.float32)


def test_the_mean_and_the_first_frame_are_those_of_their_group():
    for n, t in np.ndindex(3, 8):
        group = CLIPS[n, t // 4 * 4 : t // 4 * 4 + 4]
        np.testing.assert_allclose(repeat_mean(CLIPS, 4)[n, t], group.mean(0), atol=1e-6)
        np.testing.assert_array_equal(repeat_first(CLIPS, 4)[n, t], group[0])


def test_rows_of_a_group_hold_its_frames_in_order():
    rows = by_group(CLIPS, 2).reshape(40, 4, 4, 4, 2, 16)
    np.testing.assert_array_equal(rows[5, 3, 1, 2], CLIPS[5, 6:8, 1, 2])


def test_pca_is_perfect_where_frames_have_a_common_code_and_the_best_linear_one_elsewhere():
    mixing = RNG.standard_normal((16, 64))
    codes = RNG.standard_normal((30, 4, 4, 16))
    clips = (codes @ mixing + 3).reshape(30, 4, 4, 4, 16).transpose(0, 3, 1, 2, 4)
    np.testing.assert_allclose(Pca(clips[:20], 4).rebuild(clips[20:]), clips[20:], atol=1e-6)
    errors = baseline_errors(CLIPS, [CLIPS], 4)
    spectrum = np.linalg.eigvalsh(np.cov(by_group(CLIPS, 4), rowvar=False))
    assert errors["pca"] == pytest.approx(spectrum[:-16].sum() / spectrum.sum(), rel=0.01)
    assert errors["pca"] < errors["mean_of_frames"] < errors["first_frame"]


def test_errors_do_not_depend_on_the_chunks_and_the_mean_has_error_one():
    mean = CLIPS.mean((0, 1, 2, 3))
    config = ReCoTConfig()
    model = ReCoTModel(config, SMALL.dts)
    params = nn.unbox(jax.jit(lambda: init_recot(config, SMALL.dts, jax.random.key(0)))())
    measure = heldout_errors(model, mean, 0.5)
    whole, cut = measure(params, [CLIPS]), measure(params, [CLIPS[:24], CLIPS[24:]])
    assert whole["whole"] == pytest.approx(cut["whole"], rel=1e-4)
    # A decoder that always says the mean.
    silent = jax.tree.map(np.zeros_like, params)
    silent["decoder"]["direct"]["bias"] = np.tile(mean, 4)
    assert measure(silent, [CLIPS]) == {"whole": pytest.approx(1, rel=1e-4), "hidden": pytest.approx(1, rel=1e-4)}


def test_the_random_mask_hides_its_share_of_every_clip():
    mask = random_mask(np.random.default_rng(0), CLIPS.shape, 0.75)
    assert mask.shape == (40, 8, 16) and (mask.sum((1, 2)) == 96).all()
    assert (mask[0] != mask[1]).any()


def test_codes_come_in_the_order_of_clips():
    config = ReCoTConfig()
    params = nn.unbox(jax.jit(lambda: init_recot(config, SMALL.dts, jax.random.key(0)))())
    model = ReCoTModel(config, SMALL.dts)
    together = np.concatenate(list(clip_codes(model, params, [CLIPS[:4], CLIPS[4:8]])))
    assert together.shape == (8, 2, 4, 4, 16)
    alone = next(clip_codes(model, params, [CLIPS[4:8]]))
    np.testing.assert_allclose(together[4:], alone, atol=1e-5)
