"""Scores and selection against slow references in numpy, and the released code's faults that are mended."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.small_model import SMALL, small_params
from vxlpro_jax.models.selector import (
    QuerySelector,
    WindowAttention,
    keep_tokens,
    normalise_scores,
)
from vxlpro_jax.types import Selection

KEEP = jax.jit(keep_tokens, static_argnames="config")
NORMALISE = jax.jit(normalise_scores)
BY_BUDGET = SMALL.selector
BY_RATE = replace(SMALL.selector, selection="keep_rate")
SELECTOR_PARAMS = small_params()["selector"]


def reference_budget(scores, video_of_group, stamp_len, budget):
    """Best first, earlier first among equals; the first of a group pays for its stamp; stop at the first misfit."""
    places = [(g, p) for g in range(len(scores)) if video_of_group[g] >= 0 for p in range(scores.shape[1])]
    keep = np.zeros(scores.shape, bool)
    for group, token in sorted(places, key=lambda place: -scores[place]):  # sorted is stable
        budget -= 1 + (0 if keep[group].any() else stamp_len[group])
        if budget < 0:
            break
        keep[group, token] = True
    return keep


def reference_rate(scores, video_of_group, num_keep):
    keep = np.zeros(scores.shape, bool)
    for video, count in enumerate(num_keep):
        places = [(g, p) for g in np.flatnonzero(video_of_group == video) for p in range(scores.shape[1])]
        for place in sorted(places, key=lambda place: -scores[place])[:count]:
            keep[place] = True
    return keep


def random_case(seed: int):
    """Two rows of five groups, some of them padding, with many equal scores."""
    rng = np.random.default_rng(seed)
    video = np.stack([rng.permuted([[0, 0, 1, 1, 2], [0, 1, 1, -1, -1]], axis=0)[row] for row in (0, 1)])
    video = np.where(video < 0, 99, video)
    video.sort(axis=1)
    video = np.where(video == 99, -1, video).astype(np.int32)
    scores = rng.integers(0, 6, (2, 5, 4)).astype(np.float32) / 5
    stamp_len = np.where(video < 0, 0, rng.integers(0, 4, (2, 5)))
    return scores, video, np.arange(3) < stamp_len[..., None], rng


@pytest.mark.parametrize("seed", range(30))
def test_budget_keeps_the_best_that_fit(seed):
    scores, video, stamps, rng = random_case(seed)
    budget = rng.integers(0, 34, 2).astype(np.int32)
    keep, keep_stamps = KEEP(scores, video, stamps, Selection(np.zeros((2, 3), np.int32), budget), config=BY_BUDGET)
    for row in range(2):
        expected = reference_budget(scores[row], video[row], stamps[row].sum(-1), budget[row])
        np.testing.assert_array_equal(keep[row], expected)
        # A group without tokens loses its stamp, any other keeps the whole of it; together they fit.
        np.testing.assert_array_equal(keep_stamps[row], stamps[row] & expected.any(-1)[:, None])
        assert keep[row].sum() + keep_stamps[row].sum() <= budget[row]


def test_a_budget_that_fits_everything_keeps_everything_and_one_row_less_does_not():
    scores, video, stamps, _ = random_case(3)
    real = np.broadcast_to((video >= 0)[..., None], scores.shape)
    total = real.sum((1, 2)) + stamps.sum((1, 2))
    for short, same in ((0, True), (1, False)):
        selection = Selection(np.zeros((2, 3), np.int32), (total - short).astype(np.int32))
        keep, _ = KEEP(scores, video, stamps, selection, config=BY_BUDGET)
        assert np.array_equal(keep, real) is same


@pytest.mark.parametrize("seed", range(20))
def test_keep_rate_keeps_the_best_of_each_video_and_every_stamp(seed):
    scores, video, stamps, rng = random_case(seed)
    num_keep = rng.integers(0, 9, (2, 3)).astype(np.int32)
    keep, keep_stamps = KEEP(scores, video, stamps, Selection(num_keep, np.zeros(2, np.int32)), config=BY_RATE)
    for row in range(2):
        np.testing.assert_array_equal(keep[row], reference_rate(scores[row], video[row], num_keep[row]))
    np.testing.assert_array_equal(keep_stamps, stamps)


def test_scores_are_stretched_per_video_and_padding_gets_zero():
    raw = np.random.default_rng(0).standard_normal((1, 5, 4)).astype(np.float32) * 7
    raw[0, 4] = 1e6  # padding must not stretch anything
    scores = np.asarray(NORMALISE(raw, np.array([[0, 0, 1, 1, -1]], np.int32)))
    for groups in ([0, 1], [2, 3]):
        part = raw[0, groups]
        np.testing.assert_allclose(scores[0, groups], (part - part.min()) / (part.max() - part.min()), atol=1e-6)
        assert scores[0, groups].min() == 0 and scores[0, groups].max() == 1
    assert (scores[0, 4] == 0).all()


def test_constant_scores_give_zeros_and_finite_gradients():
    video = np.array([[0, 0, 1, -1]], np.int32)
    raw = np.full((1, 4, 4), -2.5, np.float32)
    raw[0, 2] = np.arange(4)  # the other video's scores differ, and are not touched
    grad = jax.jit(jax.grad(lambda r, v: (normalise_scores(r, v) ** 2).sum()))(raw, video)
    scores = np.asarray(NORMALISE(raw, video))
    assert (scores[0, [0, 1, 3]] == 0).all()
    np.testing.assert_allclose(scores[0, 2], np.arange(4) / 3, atol=1e-6)
    assert np.isfinite(grad).all() and (np.asarray(grad)[0, [0, 1, 3]] == 0).all()


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def window_reference(visual, stamps, stamp_mask):
    """SPEC 9.3, one group and head at a time."""
    p = jax.tree.map(np.asarray, SELECTOR_PARAMS["window_attention"])
    heads, dim = SMALL.selector.num_heads, visual.shape[-1]
    out = np.zeros_like(visual)
    for b, g in np.ndindex(visual.shape[:2]):
        times = stamps[b, g][stamp_mask[b, g]] @ p["q_proj"]["kernel"] + p["q_proj"]["bias"]
        keys = visual[b, g] @ p["k_proj"]["kernel"] + p["k_proj"]["bias"]
        mixed = []
        for q, k in zip(np.split(times, heads, -1), np.split(keys, heads, -1), strict=True):
            mixed.append(softmax(k @ q.T / np.sqrt(dim / heads)) @ q)
        out[b, g] = np.concatenate(mixed, -1) @ p["out_proj"]["kernel"] + p["out_proj"]["bias"]
    return out


def random_groups(seed=0):
    rng = np.random.default_rng(seed)
    visual = rng.standard_normal((2, 3, 4, 32)).astype(np.float32)
    stamps = rng.standard_normal((2, 3, 5, 32)).astype(np.float32)
    stamp_mask = np.arange(5) < np.array([[3, 5, 4], [1, 3, 3]])[..., None]
    stamps[~stamp_mask] = 1e3  # what stands in padding must not matter
    query = rng.standard_normal((2, 6, 32)).astype(np.float32)
    query_mask = np.arange(6) < np.array([[4], [6]])
    query[~query_mask] = 1e3
    return visual, stamps, stamp_mask, query, query_mask


def test_window_attention_reads_the_own_stamp_alone_whatever_its_length():
    visual, stamps, stamp_mask, *_ = random_groups()
    apply = jax.jit(WindowAttention(SMALL.selector).apply)
    ours = apply({"params": SELECTOR_PARAMS["window_attention"]}, visual, stamps, stamp_mask)
    np.testing.assert_allclose(ours, window_reference(visual, stamps, stamp_mask), atol=2e-4)


def test_raw_scores_are_the_mean_over_the_queries_tokens():
    visual, stamps, stamp_mask, query, query_mask = random_groups()
    raw = jax.jit(QuerySelector(SMALL.selector).apply)(
        {"params": SELECTOR_PARAMS}, visual, stamps, stamp_mask, query, query_mask
    )
    hidden = query @ np.asarray(SELECTOR_PARAMS["text_mlp"]["kernel"]) + np.asarray(SELECTOR_PARAMS["text_mlp"]["bias"])
    encoded = hidden / 2 * (1 + np.vectorize(math.erf)(hidden / np.sqrt(2)))
    read = window_reference(visual, stamps, stamp_mask)
    for row in range(2):
        tokens = encoded[row][query_mask[row]]
        expected = np.stack([read[row] @ token for token in tokens]).mean(0)
        np.testing.assert_allclose(raw[row], expected, atol=1e-5 * np.abs(expected).max())


def test_an_empty_query_gives_equal_scores():
    visual, stamps, stamp_mask, query, query_mask = random_groups()
    raw = jax.jit(QuerySelector(SMALL.selector).apply)(
        {"params": SELECTOR_PARAMS}, visual, stamps, stamp_mask, query, np.zeros_like(query_mask)
    )
    assert (np.asarray(raw) == 0).all()


def test_gradients_of_the_dead_and_the_living_projections():
    inputs = [jnp.asarray(part) for part in random_groups()]

    def loss(params):
        raw = QuerySelector(SMALL.selector).apply({"params": params}, *inputs)
        return (raw**2).mean()

    grads = jax.jit(jax.grad(loss))(SELECTOR_PARAMS)
    for name, grad in grads["window_attention"].items():
        assert bool(jnp.any(grad["kernel"] != 0)) is (name != "v_proj"), name
    assert jnp.any(grads["text_mlp"]["kernel"] != 0)
