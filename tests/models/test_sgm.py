"""Masking by score: the products of Algorithm 1, how many are hidden and which, and that the scores can learn."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vxlpro_jax.models.sgm import SemanticMasker, SgmConfig, choose_masked, largest, num_masked, token_scores

SIZE, TIME, PLACES, DIM = 6, 4, 9, 16
RNG = np.random.default_rng(0)
FEATURES = jnp.asarray(RNG.standard_normal((SIZE, TIME, PLACES, DIM)), jnp.float32)
IMAGES = jnp.array([False, False, True, True, False, True])
WHOLE = jnp.array([False, True, False, True, False, False])
VIDEOS = jnp.zeros(SIZE, bool)
SCORES = jnp.asarray(RNG.standard_normal((SIZE, TIME, PLACES)), jnp.float32)


def gumbel(seed, shape=(SIZE, TIME, PLACES)):
    return jax.random.gumbel(jax.random.key(seed), shape)


def test_scores_are_those_of_algorithm_1():
    """Token by token, with maps that are not symmetric: S_temp(t, p) = V(t - 1, p) A, S_spa(t) = mean_p V(t) B."""
    a, b = RNG.standard_normal((2, DIM, DIM)).astype(np.float32)
    found = np.asarray(token_scores(FEATURES, lambda x: x @ a, lambda x: x @ b))
    tokens = np.asarray(FEATURES)
    for n, t, p in np.ndindex(SIZE, TIME, PLACES):
        before = tokens[n, t - 1, p] if t else np.zeros(DIM)
        expected = tokens[n, t, p] @ (before @ a) + tokens[n, t, p] @ (tokens[n, t].mean(0) @ b)
        assert found[n, t, p] == pytest.approx(expected / DIM**0.5, abs=1e-3)


@pytest.mark.parametrize("scope", ["clip", "frame"])
@pytest.mark.parametrize("image_masks", ["shared", "free"])
def test_as_many_are_hidden_as_the_config_says_and_none_of_whole_clips(scope, image_masks):
    config = SgmConfig(scope=scope, image_masks=image_masks, video_ratio=0.75, image_ratio=0.3)
    masking = choose_masked(SCORES, IMAGES, WHOLE, gumbel(0), config)
    counts = np.asarray(masking.masked).sum((1, 2))
    video = TIME * round(0.75 * PLACES) if scope == "frame" else round(0.75 * TIME * PLACES)
    image = round(0.3 * TIME * PLACES) if scope == "clip" and image_masks == "free" else TIME * round(0.3 * PLACES)
    np.testing.assert_array_equal(counts, np.where(WHOLE, 0, np.where(IMAGES, image, video)))
    np.testing.assert_array_equal(counts, num_masked(IMAGES, WHOLE, (TIME, PLACES), config))
    np.testing.assert_array_equal(np.asarray(masking.strength), np.asarray(masking.masked).astype(np.float32))
    if scope == "frame":
        assert (np.asarray(masking.masked).sum(2).std(1) == 0).all()
    repeats_alike = (np.asarray(masking.masked) == np.asarray(masking.masked)[:, :1]).all((1, 2))
    if image_masks == "shared":
        assert repeats_alike[np.asarray(IMAGES)].all()
    assert not repeats_alike[np.asarray(~IMAGES & ~WHOLE)].any()


def hidden_share(config, rounds=200):
    """How often each token of one clip is hidden over many draws, by rank of its score."""
    shape = (rounds, TIME, PLACES)
    scores = jnp.broadcast_to(SCORES[0], shape)
    flags = jnp.zeros(rounds, bool)
    masked = np.asarray(choose_masked(scores, flags, flags, gumbel(1, shape), config).masked).mean(0)
    return masked.reshape(-1)[np.asarray(SCORES[0]).reshape(-1).argsort()]


def test_low_scored_tokens_are_hidden_more_often_and_temperature_says_how_much_more():
    cold, usual, hot = (hidden_share(SgmConfig(video_ratio=0.5, temperature=value)) for value in (0.01, 0.5, 100.0))
    third = len(usual) // 3
    assert usual[:third].mean() > usual[-third:].mean() + 0.3
    assert usual[:third].min() < 1 or usual[-third:].max() > 0  # still random
    assert set(cold.tolist()) == {0.0, 1.0} and cold[: len(cold) // 2].all()
    assert abs(hot[:third].mean() - hot[-third:].mean()) < 0.08


def test_the_mask_is_not_moved_by_scale_or_shift_of_the_scores():
    config, noise = SgmConfig(), gumbel(2)
    base = choose_masked(SCORES, VIDEOS, VIDEOS, noise, config).masked
    other = choose_masked(37 * SCORES + 5, VIDEOS, VIDEOS, noise, config).masked
    np.testing.assert_array_equal(base, other)


def test_a_choice_has_the_gradient_of_a_sigmoid_around_its_edge():
    keys = jnp.asarray([[3.0, 1.0, 0.0, -4.0]])
    chosen, strength = largest(keys, jnp.array([2]), 0.5)
    np.testing.assert_array_equal(chosen, [[True, True, False, False]])
    np.testing.assert_array_equal(strength, [[1, 1, 0, 0]])
    slope = jax.grad(lambda k: largest(k, jnp.array([2]), 0.5)[1].sum())(keys)
    soft = jax.nn.sigmoid((keys - 0.5) / 0.5)
    np.testing.assert_allclose(slope, soft * (1 - soft) / 0.5, rtol=1e-5)
    assert not jax.grad(lambda k: largest(k, jnp.array([0]), 0.5)[1].sum())(keys).any()


@pytest.mark.parametrize("query", ["linear", "vectors"])
@pytest.mark.parametrize("scope", ["clip", "frame"])
def test_both_queries_get_a_gradient_where_a_hard_choice_gives_none(query, scope):
    masker = SemanticMasker(SgmConfig(query=query, scope=scope, num_query_vectors=5))
    noise = gumbel(3)
    params = nn.unbox(masker.init(jax.random.key(0), FEATURES, VIDEOS, VIDEOS, noise)["params"])
    worth = RNG.standard_normal((SIZE, TIME, PLACES)).astype(np.float32)

    def total(params, part):
        masking, _ = masker.apply({"params": params}, FEATURES, VIDEOS, VIDEOS, noise)
        return (getattr(masking, part).astype(jnp.float32) * worth).sum()

    soft, hard = (jax.jit(jax.grad(total), static_argnums=1)(params, part) for part in ("strength", "masked"))
    for name in ("temp_query", "spatio_query"):
        assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(soft[name])) > 1e-6
        assert not any(leaf.any() for leaf in jax.tree.leaves(hard[name]))


def test_masks_learn_to_hide_what_is_cheap():
    """Gradient steps on the masker alone: tokens of large norm cost when hidden, and come to be shown."""
    masker = SemanticMasker(SgmConfig(video_ratio=0.5, temperature=0.3))
    loud = RNG.random((64, TIME, PLACES)) < 0.3
    features = RNG.standard_normal((64, TIME, PLACES, DIM)).astype(np.float32) * 0.3
    features = jnp.asarray(features + 2 * loud[..., None].astype(np.float32))
    flags = jnp.zeros(64, bool)

    @jax.jit
    def masked(params, seed):
        noise = jax.random.gumbel(jax.random.key(seed), loud.shape)
        return masker.apply({"params": params}, features, flags, flags, noise)[0]

    @jax.jit
    def step(params, seed):
        gradient = jax.grad(lambda p: (masked(p, seed).strength * loud).mean())(params)
        return jax.tree.map(lambda leaf, slope: leaf - 0.3 * slope, params, gradient)

    noise = gumbel(0, loud.shape)
    params = nn.unbox(masker.init(jax.random.key(1), features, flags, flags, noise)["params"])
    before = float((np.asarray(masked(params, 99).masked) & loud).sum() / loud.sum())
    for seed in range(30):
        params = step(params, seed)
    after = float((np.asarray(masked(params, 99).masked) & loud).sum() / loud.sum())
    assert after < 0.5 * before


def test_random_masking_has_no_queries_and_hides_the_same_number():
    config = SgmConfig(masking="random")
    masker, noise = SemanticMasker(config), gumbel(4)
    params = masker.init(jax.random.key(0), FEATURES, IMAGES, WHOLE, noise)["params"]
    assert params.keys() == {"mask_token"}
    masking, _ = masker.apply({"params": nn.unbox(params)}, FEATURES, IMAGES, WHOLE, noise)
    counts = np.asarray(masking.masked).sum((1, 2))
    np.testing.assert_array_equal(counts, num_masked(IMAGES, WHOLE, (TIME, PLACES), SgmConfig()))
    first = np.asarray(noise[0]).reshape(-1)
    largest_noise = first >= np.sort(first)[-counts[0]]
    np.testing.assert_array_equal(np.asarray(masking.masked)[0].reshape(-1), largest_noise)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"video_ratio": 1.0}, "sgm.video_ratio=1.0"), ({"temperature": 0.0}, "sgm.temperature=0.0.*above 0")],
)
def test_impossible_values_are_named(change, said):
    with pytest.raises(ValueError, match=said):
        replace(SgmConfig(), **change)
