"""The losses against values computed by hand, and what they must not count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vxlpro_jax.train.losses import class_loss, next_token_loss, ranking_loss
from vxlpro_jax.types import IGNORE_LABEL


def test_next_token_loss_is_the_mean_over_counted_labels_of_the_next_place():
    logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [1.0, 1.0, 1.0]]]))
    labels = jnp.array([[0, IGNORE_LABEL, 1, 0]])
    loss, right = next_token_loss(logits, labels)
    assert int(loss.number) == 2 and loss.mean() == pytest.approx(-(np.log(0.8) + np.log(0.2)) / 2, abs=1e-6)
    assert right.tolist() == [False]
    assert next_token_loss(logits, jnp.array([[2, IGNORE_LABEL, 1, 2]]))[1].tolist() == [True]


def test_rows_without_labels_cost_nothing():
    loss, _ = next_token_loss(jnp.zeros((2, 3, 4)), jnp.full((2, 3), IGNORE_LABEL))
    assert loss.number == 0 and loss.mean() == 0


def test_ranking_loss_wants_relevant_tokens_on_top():
    relevant, real = jnp.array([[True, False, False]]), jnp.ones((1, 3), bool)
    scores = jnp.array([[[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]])
    by_hand = -np.log(np.exp(2.0) / (2 * np.exp(2.0) + 4))
    assert ranking_loss(scores, relevant, real, sharpness=2.0).mean() == pytest.approx(by_hand, abs=1e-6)
    gradient = jax.grad(lambda s: ranking_loss(s, relevant, real, 2.0).mean())(scores)
    assert (gradient[0, 0] < 0).all() and (gradient[0, 1:] > 0).all()


def test_ranking_loss_leaves_out_padding_and_rows_that_say_nothing():
    relevant = jnp.array([[True, False, False], [True, True, True], [False, False, False]])
    real = jnp.array([[True, True, False], [True, True, True], [True, True, True]])
    scores = jax.random.uniform(jax.random.key(0), (3, 3, 2))
    alone = ranking_loss(scores[:1, :2], relevant[:1, :2], real[:1, :2], 5.0).mean()
    assert ranking_loss(scores, relevant, real, 5.0).mean() == pytest.approx(float(alone), abs=1e-6)
    gradient = jax.grad(lambda s: ranking_loss(s, relevant, real, 5.0).mean())(scores)
    assert bool(jnp.isfinite(gradient).all()) and (gradient[0, 2] == 0).all() and (gradient[1:] == 0).all()


def test_class_loss_ignores_negative_labels():
    logits = jnp.array([[2.0, 0.0], [0.0, 3.0], [5.0, 0.0]])
    loss, accuracy = class_loss(logits, jnp.array([0, 0, -1]))
    by_hand = -np.mean([np.log(np.exp(2) / (np.exp(2) + 1)), np.log(1 / (1 + np.exp(3)))])
    assert loss.mean() == pytest.approx(by_hand, abs=1e-5) and accuracy.mean() == 0.5
    assert class_loss(logits, jnp.array([-1, -1, -1]))[0].mean() == 0
