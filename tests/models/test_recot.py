"""The autoencoder around the DTS: shares of parameters, shapes at every compression, what is hidden stays hidden."""

from dataclasses import replace
from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.small_model import SMALL
from vxlpro_jax.models.dts import Compression, DtsConfig
from vxlpro_jax.models.presets import PRESETS
from vxlpro_jax.models.recot import (
    DECODER_SHARE,
    DECODER_TOLERANCE,
    DoublingConv,
    ReCoTConfig,
    ReCoTModel,
    count_params,
    decoder_dim,
    init_recot,
)
from vxlpro_jax.models.sgm import SgmConfig
from vxlpro_jax.models.video_xl_pro import abstract_params
from vxlpro_jax.parallel.axes import FSDP_TENSOR
from vxlpro_jax.parallel.mesh import make_mesh
from vxlpro_jax.parallel.sharding import init_sharded

RNG = np.random.default_rng(0)
TRAINED = tuple(name for name in get_args(Compression) if name != "none")
SIZES = {"small": SMALL, **{name: PRESETS[name] for name in ("tiny", "video_xl_pro_3b")}}


def features(size, time, grid=4, dim=16):
    return jnp.asarray(RNG.standard_normal((size, time, grid, grid, dim)), jnp.float32)


def fresh(config, dts: DtsConfig = SMALL.dts):
    """Parameters with noise on every leaf, so that nothing is silent."""
    params = nn.unbox(jax.jit(lambda: init_recot(config, dts, jax.random.key(0)))())
    leaves, tree = jax.tree.flatten(params)
    return jax.tree.unflatten(tree, [x + 0.1 * RNG.standard_normal(x.shape).astype(np.float32) for x in leaves])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("compression", TRAINED)
def test_the_decoder_has_half_the_encoders_parameters_at_every_size(size, compression):
    config, dts = ReCoTConfig(compression=compression), SIZES[size].dts
    tree = jax.eval_shape(lambda: init_recot(config, dts, jax.random.key(0)))
    share = count_params(tree["decoder"]) / count_params(tree["dts"])
    assert abs(share / DECODER_SHARE - 1) <= DECODER_TOLERANCE
    assert tree.keys() == {"dts", "sgm", "decoder"}


def test_a_width_that_misses_half_the_parameters_is_refused():
    """Sixty-four relative offsets at a width of two: the tables outweigh everything."""
    with pytest.raises(ValueError, match="a DTS 2 wide: a decoder .* comes nearest"):
        decoder_dim(replace(SMALL.dts, dim=2, num_norm_groups=1, max_relative_offset=64))


def test_the_trained_dts_drops_into_the_model():
    config = ReCoTConfig(frame_packing="released", relative_term="released")
    ours = nn.unbox(jax.eval_shape(lambda: init_recot(config, SMALL.dts, jax.random.key(0))))["dts"]
    models = abstract_params(SMALL)["dts"]
    assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, models)


@pytest.mark.parametrize("compression", TRAINED)
@pytest.mark.parametrize("packing", ["paper", "released"])
def test_clips_of_several_groups_come_back_in_their_shape(compression, packing):
    config = ReCoTConfig(compression=compression, frame_packing=packing)
    model, clips = ReCoTModel(config, SMALL.dts), features(2, 8)
    flags, noise = jnp.zeros(2, bool), jnp.zeros((2, 8, 16))
    params = nn.unbox(jax.eval_shape(lambda: init_recot(config, SMALL.dts, jax.random.key(0))))
    output, masking = jax.eval_shape(model.apply, {"params": params}, clips, flags, flags, noise)
    assert output.rebuilt.shape == clips.shape
    assert output.code.shape == (2, 8 // config.dts_of(SMALL.dts).frames_per_group, 4, 4, 16)
    assert masking.masked.shape == (2, 8, 16)


def test_what_is_hidden_does_not_reach_the_code():
    config = ReCoTConfig()
    model, params, clips = ReCoTModel(config, SMALL.dts), fresh(config), features(1, 4)
    hidden = RNG.random((1, 4, 16)) < 0.5
    rebuild = jax.jit(
        lambda x: model.apply(
            {"params": params},
            x,
            jnp.asarray(hidden, jnp.float32),
            params["sgm"]["mask_token"],
            method=ReCoTModel.rebuild,
        )
    )
    base = rebuild(clips)
    noise = features(1, 4)
    other = jnp.where(hidden.reshape(1, 4, 4, 4, 1), noise, clips)
    shown = jnp.where(hidden.reshape(1, 4, 4, 4, 1), clips, noise)
    np.testing.assert_allclose(rebuild(other).code, base.code, atol=1e-4)
    assert np.abs(np.asarray(rebuild(shown).code) - np.asarray(base.code)).max() > 1e-2


def test_the_code_of_whole_clips_is_the_dts_of_the_unmasked_path():
    config = ReCoTConfig()
    model, params, clips = ReCoTModel(config, SMALL.dts), fresh(config), features(2, 4)
    flags, whole = jnp.zeros(2, bool), jnp.ones(2, bool)
    output, _ = jax.jit(model.apply)({"params": params}, clips, flags, whole, jnp.zeros((2, 4, 16)))
    encode = jax.jit(lambda dts, x: model.apply({"params": {"dts": dts}}, x, method=ReCoTModel.encode))
    code = encode(params["dts"], clips)
    np.testing.assert_allclose(code, output.code, atol=1e-5)


def test_doubling_deals_its_taps_out_in_turn():
    x = RNG.standard_normal((1, 2, 3, 4, 5)).astype(np.float32)
    kernel = RNG.standard_normal((3, 3, 3, 5, 6)).astype(np.float32)
    bias = RNG.standard_normal(6).astype(np.float32)
    ours = np.asarray(jax.jit(DoublingConv(6).apply)({"params": {"kernel": kernel, "bias": bias}}, x))
    assert ours.shape == (1, 4, 3, 4, 6)
    for t, row, column in np.ndindex(4, 3, 4):
        taps = [(1, t // 2)] if t % 2 == 0 else [(0, t // 2), (2, min(t // 2 + 1, 1))]
        expected = bias.astype(np.float64)
        for (dt, moment), dy, dx in ((tap, dy, dx) for tap in taps for dy, dx in np.ndindex(3, 3)):
            at = (moment, np.clip(row + dy - 1, 0, 2), np.clip(column + dx - 1, 0, 3))
            expected = expected + x[(0, *at)] @ kernel[dt, dy, dx]
        np.testing.assert_allclose(ours[0, t, row, column], expected, atol=1e-4)


@pytest.mark.parametrize("query", ["linear", "vectors"])
def test_every_parameter_is_born_sharded(query):
    """Each leaf declares axes that the rules know, and the result is the same on a mesh as on one device."""
    config = ReCoTConfig(sgm=SgmConfig(query=query, num_query_vectors=4))
    mesh = make_mesh({"data": 2, "tensor": 2})
    dts = replace(SMALL.dts, dim=64, num_norm_groups=4)  # at 32 the decoder would be 21 wide
    sharded = init_sharded(lambda key: init_recot(config, dts, key), jax.random.key(0), mesh, FSDP_TENSOR)
    spread = [leaf for leaf in jax.tree.leaves(sharded) if len(leaf.sharding.device_set) == 4]
    assert len(spread) == len(jax.tree.leaves(sharded))
    clips, flags = features(4, 4, dim=64), jnp.zeros(4, bool)
    noise = jax.random.gumbel(jax.random.key(1), (4, 4, 16))
    plain = jax.device_get(sharded)
    found = []
    for params, rules in ((sharded, FSDP_TENSOR), (plain, ())):
        model = ReCoTModel(config, dts, rules)
        if rules:
            with jax.set_mesh(mesh):
                found.append(jax.jit(model.apply)({"params": params}, clips, flags, flags, noise)[0].rebuilt)
        else:
            found.append(jax.jit(model.apply)({"params": params}, clips, flags, flags, noise)[0].rebuilt)
    np.testing.assert_allclose(*map(np.asarray, found), atol=1e-3)


def test_frames_that_are_no_whole_groups_and_impossible_choices_raise():
    config = ReCoTConfig()
    flags, noise = jnp.zeros(1, bool), jnp.zeros((1, 6, 16))
    with pytest.raises(ValueError, match="clips of 6 frames: a multiple of frames_per_group=4"):
        jax.eval_shape(ReCoTModel(config, SMALL.dts).init, jax.random.key(0), features(1, 6), flags, flags, noise)
    with pytest.raises(ValueError, match="recot.compression='none'.*nothing to learn"):
        ReCoTConfig(compression="none")
    with pytest.raises(ValueError, match="recot.visible_weight=0"):
        ReCoTConfig(visible_weight=0.0)
