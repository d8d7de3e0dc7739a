"""Sampling: which tokens may be drawn, that a seed decides, and that a row does not depend on its neighbours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vxlpro_jax.infer.token_sampler import Sampling, next_token

# Probabilities .4, .3, .2, .1 of tokens 2, 0, 3, 1.
LOGITS = jnp.log(jnp.array([[0.3, 0.1, 0.4, 0.2]]))


def drawn(sampling: Sampling, num_draws: int = 200) -> np.ndarray:
    keys = jax.random.split(jax.random.key(0), num_draws)
    return np.asarray(jax.jit(jax.vmap(lambda key: next_token(LOGITS, key, sampling)[0]))(keys))


def test_greedy_by_default():
    assert set(drawn(Sampling())) == {2}


@pytest.mark.parametrize(
    "sampling, allowed",
    [
        (Sampling(temperature=1.0), {0, 1, 2, 3}),
        (Sampling(temperature=1.0, top_k=1), {2}),
        (Sampling(temperature=1.0, top_k=3), {0, 2, 3}),
        (Sampling(temperature=1.0, top_k=9), {0, 1, 2, 3}),
        (Sampling(temperature=1.0, top_p=0.01), {2}),
        (Sampling(temperature=1.0, top_p=0.65), {0, 2}),
        (Sampling(temperature=1.0, top_p=0.75), {0, 2, 3}),
        # Of the two likeliest, .57 and .43: the share is counted among what top_k left.
        (Sampling(temperature=1.0, top_k=2, top_p=0.5), {2}),
        (Sampling(temperature=0.05), {2}),
        (Sampling(temperature=1e-30), {2}),
    ],
)
def test_allowed_tokens(sampling, allowed):
    tokens = drawn(sampling, 400) if sampling.temperature == 1 else drawn(sampling, 40)
    assert set(tokens.tolist()) == allowed


def test_shares_follow_the_temperature():
    shares = np.bincount(drawn(Sampling(temperature=1.0), 2000), minlength=4) / 2000
    np.testing.assert_allclose(shares, [0.3, 0.1, 0.4, 0.2], atol=0.05)
    flat = np.bincount(drawn(Sampling(temperature=50.0), 2000), minlength=4) / 2000
    np.testing.assert_allclose(flat, 0.25, atol=0.05)


def test_a_row_draws_as_if_it_were_alone():
    rows = jnp.asarray(np.random.default_rng(0).standard_normal((5, 50)), jnp.float32)
    key, warm = jax.random.key(3), Sampling(temperature=2.0, top_p=0.9, top_k=30)
    together = next_token(rows, key, warm)
    alone = [int(next_token(row[None], key, warm)[0]) for row in rows]
    assert together.tolist() == alone


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_p": float("nan")},
        {"top_k": -1},
    ],
)
def test_values_out_of_range(wrong):
    with pytest.raises(ValueError, match="are accepted"):
        Sampling(**wrong)
