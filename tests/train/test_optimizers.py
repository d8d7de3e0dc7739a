"""The optimizer: its schedule, its clipping, and what weight decay leaves alone."""

import jax
import jax.numpy as jnp
import pytest

from vxlpro_jax.models.presets import PRESETS
from vxlpro_jax.models.video_xl_pro import abstract_params
from vxlpro_jax.train.optimizers import OptimizerConfig, decays, make_optimizer, rate_schedule
from vxlpro_jax.train.state import split_params

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


def decayed(params):
    """The leaves that weight decay alone makes smaller."""
    optimizer = make_optimizer(OptimizerConfig(0.01, 1, 0.1, weight_decay=0.5, beta2=0.98, clip_norm=1.0), 100)
    state = optimizer.init(params)
    zero = jax.tree.map(jnp.zeros_like, params)
    for _ in range(2):
        updates, state = optimizer.update(zero, state, params)
    for update in jax.tree.leaves(updates):
        assert (update < 0).all() or (update == 0).all()
    return jax.tree.map(lambda update: bool((update < 0).all()), updates)


def test_weight_decay_leaves_biases_and_scales_alone_in_stacked_layers_too():
    layers, plain = jnp.ones((4, 3)), jnp.ones(3)
    nested = {
        "layers": {"norm": {"scale": layers, "bias": layers}, "fc": {"kernel": jnp.ones((4, 3, 3)), "bias": layers}},
        "fc": {"kernel": jnp.ones((3, 3)), "bias": plain},
        "embed": {"embedding": jnp.ones((5, 3))},
        "mask_token": plain,
    }
    expected = {"layers/fc/kernel", "fc/kernel", "embed/embedding"}
    flat, _ = split_params(nested, tuple(nested))
    assert {path for path, found in decayed(flat).items() if found} == expected
    assert {path for path, found in split_params(decayed(nested), tuple(nested))[0].items() if found} == expected


def test_of_the_model_all_kernels_and_tables_decay_and_nothing_else():
    params = abstract_params(PRESETS["tiny"])
    leaves, _ = split_params(params, tuple(params))
    names = {True: set(), False: set()}
    for path, leaf in leaves.items():
        names[decays(path, leaf)].add(path.rsplit("/", 1)[-1])
    tables = {"embedding", "temporal_encoding", "relative_position_k", "relative_position_v"}
    assert names == {True: {"kernel", *tables}, False: {"bias", "scale"}}
