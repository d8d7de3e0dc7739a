"""The optimizer: its schedule, its clipping, and what weight decay leaves alone."""

import jax
import jax.numpy as jnp
import pytest

from vxlpro_jax.train.optimizers import OptimizerConfig, make_optimizer, rate_schedule

CONFIG = OptimizerConfig(0.01, warmup_steps=10, final_share=0.1, weight_decay=0.0, beta2=0.98, clip_norm=1.0)


def test_schedule_warms_up_and_falls_to_its_final_share():
    rate = rate_schedule(CONFIG, 100)
    assert rate(0) == 0 and rate(5) == pytest.approx(0.005) and rate(10) == pytest.approx(0.01)
    assert rate(100) == pytest.approx(0.001) and rate(55) == pytest.approx(0.0055, rel=0.01)


def test_a_warm_up_longer_than_the_stage_is_named():
    with pytest.raises(ValueError, match="warmup_steps=10 of num_steps=10"):
        rate_schedule(CONFIG, 10)


def test_large_gradients_are_clipped_to_the_norm():
    params = {"w": jnp.zeros((2, 2))}
    optimizer = make_optimizer(CONFIG, 100)
    for scale in (1e3, 1e6):
        state = optimizer.init(params)
        _, state = optimizer.update({"w": jnp.full((2, 2), scale)}, state, params)
        first_moment = jax.tree.leaves(state)
        assert max(float(jnp.abs(leaf).max()) for leaf in first_moment if leaf.shape == (2, 2)) == pytest.approx(0.05)


def test_weight_decay_touches_matrices_alone():
    config = OptimizerConfig(0.01, 1, 0.1, weight_decay=0.5, beta2=0.98, clip_norm=1.0)
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    optimizer = make_optimizer(config, 100)
    state = optimizer.init(params)
    zero = jax.tree.map(jnp.zeros_like, params)
    for _ in range(2):
        updates, state = optimizer.update(zero, state, params)
    assert (updates["kernel"] < 0).all() and (updates["bias"] == 0).all()
