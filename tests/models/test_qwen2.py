"""The decoder: with and without cache, with padding anywhere, tied and untied."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from tests.small_model import SMALL, empty_cache, small_params
from vxlpro_jax.models.qwen2 import Qwen2

PARAMS = small_params()["llm"]
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 7, SMALL.llm.dim)).astype(np.float32)
ALL = np.ones((2, 7), bool)
PLACES = np.broadcast_to(np.arange(7), (2, 7))
APPLY = jax.jit(
    lambda x, positions, valid, cache=None: Qwen2(SMALL.llm).apply({"params": PARAMS}, x, positions, valid, cache)
)


def test_later_tokens_do_not_change_earlier_ones():
    changed = X.copy()
    changed[:, 5:] += 1
    before, after = (np.asarray(APPLY(x, PLACES, ALL)[0]) for x in (X, changed))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.abs(before[:, 5:] - after[:, 5:]).max() > 1e-2


def test_order_matters():
    before, after = (np.asarray(APPLY(x, PLACES, ALL)[0]) for x in (X, X[:, [1, 0, 2, 3, 4, 5, 6]]))
    assert np.abs(before[:, 6] - after[:, 6]).max() > 1e-3


def test_only_differences_of_positions_matter():
    near, far = (np.asarray(APPLY(X, PLACES + shift, ALL)[0]) for shift in (0, 50))
    np.testing.assert_allclose(near, far, atol=2e-4)


def test_padding_between_is_seen_by_nobody():
    """Gaps in the row, filled with large numbers, change no real token: what batches of unequal rows rely on."""
    wide = np.full((2, 10, SMALL.llm.dim), 30, np.float32)
    valid = np.zeros((2, 10), bool)
    places = np.zeros((2, 10), int)
    slots = np.array([0, 1, 3, 4, 5, 8, 9])
    wide[:, slots], valid[:, slots], places[:, slots] = X, True, PLACES
    np.testing.assert_allclose(APPLY(wide, places, valid)[0][:, slots], APPLY(X, PLACES, ALL)[0], atol=1e-4)


def test_in_pieces_with_cache_equals_at_once_without():
    whole, nothing = APPLY(X, PLACES, ALL)
    assert nothing is None
    cache, parts = empty_cache(2, 9), []
    for piece in (slice(0, 4), slice(4, 5), slice(5, 7)):
        hidden, cache = APPLY(X[:, piece], PLACES[:, piece], ALL[:, piece], cache)
        parts.append(hidden)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-4)
    assert int(cache.next_slot) == 7
    np.testing.assert_array_equal(cache.valid, np.broadcast_to(np.arange(9) < 7, (2, 9)))
    assert (np.asarray(cache.keys[:, :, 7:]) == 0).all() and (np.asarray(cache.values[:, :, :7]) != 0).any()


def test_tied_and_untied_heads():
    hidden = jnp.asarray(X)
    table = np.asarray(PARAMS["embed_tokens"]["embedding"])
    tied_params = {name: leaf for name, leaf in PARAMS.items() if name != "lm_head"}
    tied = Qwen2(replace(SMALL.llm, tie_embeddings=True)).apply({"params": tied_params}, hidden, method=Qwen2.logits)
    np.testing.assert_allclose(tied, X @ table.T, atol=1e-4)
    untied = Qwen2(SMALL.llm).apply({"params": PARAMS}, hidden, method=Qwen2.logits)
    np.testing.assert_allclose(untied, X @ np.asarray(PARAMS["lm_head"]["kernel"]), atol=1e-4)
    half = Qwen2(SMALL.llm).apply({"params": PARAMS}, hidden.astype(jnp.bfloat16), method=Qwen2.logits)
    assert half.dtype == jnp.float32
