"""The autoencoder around the DTS: shares of parameters, shapes at every compression, what is hidden stays hidden."""

from dataclasses import replace
from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.border_conv import assert_is_conv, drawn_conv
from tests.small_model import SMALL
from vxlpro_jax.models.part_configs import Compression, DtsConfig
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
from vxlpro_jax.parallel.sharding import init_sharded, param_shardings

RNG = np.random.default_rng(0)
TRAINED = tuple(name for name in get_args(Compression) if name != "none")
WIDE = replace(SMALL.dts, dim=64, num_norm_groups=4)  # for a mesh: at 32 the decoder would be 21 wide
SIZES = {"small": SMALL, **{name: PRESETS[name] for name in ("tiny", "video_xl_pro_3b")}}


def features(size, time, grid=4, dim=16):
    return jnp.asarray(RNG.standard_normal((size, time, grid, grid, dim)), jnp.float32)


def fresh(config, dts: DtsConfig = SMALL.dts):
    """Random parameters by their shapes alone, none of them silent: compiling the initialisers takes longer than the
    tests."""
    shapes = nn.unbox(jax.eval_shape(lambda: init_recot(config, dts, jax.random.key(0))))

    def draw(path, leaf):
        noise = RNG.standard_normal(leaf.shape).astype(np.float32)
        fan_in = max(1, int(np.prod(leaf.shape[:-1])))
        return noise * fan_in**-0.5 + 0.1 * noise if path[-1].key == "kernel" else _start(path[-1].key) + 0.1 * noise

    return jax.tree.map(jnp.asarray, jax.tree_util.tree_map_with_path(draw, shapes))


def _start(name: str) -> float:
    return 1.0 if name == "scale" else 0.0


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
    x, params = drawn_conv(RNG, 2)
    ours = np.asarray(jax.jit(DoublingConv(6).apply)({"params": params}, x))

    def taps(t):
        return [(1, t // 2)] if t % 2 == 0 else [(0, t // 2), (2, min(t // 2 + 1, 1))]

    assert_is_conv(ours, x, params, 4, taps)


@pytest.mark.parametrize("query", ["linear", "vectors"])
def test_every_parameter_declares_axes_that_the_rules_know(query):
    config = ReCoTConfig(sgm=SgmConfig(query=query, num_query_vectors=4))
    shapes = jax.eval_shape(lambda: init_recot(config, WIDE, jax.random.key(0)))
    layouts = param_shardings(shapes, make_mesh({"data": 2, "tensor": 2}), FSDP_TENSOR)
    assert len(jax.tree.leaves(layouts)) == len(jax.tree.leaves(nn.unbox(shapes)))


@pytest.mark.parametrize("query", ["linear", pytest.param("vectors", marks=pytest.mark.slow)])
def test_every_parameter_is_born_sharded(query):
    """Each leaf declares axes that the rules know, and the result is the same on a mesh as on one device."""
    config = ReCoTConfig(sgm=SgmConfig(query=query, num_query_vectors=4))
    mesh = make_mesh({"data": 2, "tensor": 2})
    dts = WIDE
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
