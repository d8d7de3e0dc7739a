"""Packing and relative terms, both ways of each; the numbers of the released way are held by tests/test_golden.py."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.border_conv import assert_is_conv, drawn_conv
from tests.small_model import SMALL, small_params, with_dts
from vxlpro_jax.models import dts
from vxlpro_jax.models.dts import DynamicTokenSynthesizer, HalvingConv, TemporalBlock, pack_frames
from vxlpro_jax.models.part_configs import with_compression
from vxlpro_jax.models.presets import VIDEO_XL_PRO_3B
from vxlpro_jax.models.video_xl_pro import VideoXLProModel, abstract_params

RNG = np.random.default_rng(0)
PARAMS = small_params()["dts"]


def test_released_packing_follows_the_index_map():
    """SPEC 6, also where the channels do not divide by the frames of a group."""
    for channels in (16, 6, 7):
        f = RNG.standard_normal((8, 2, 3, channels)).astype(np.float32)
        packed = np.asarray(pack_frames(jnp.asarray(f), SMALL.dts))
        for g, t, y, x, c in np.ndindex(packed.shape):
            assert packed[g, t, y, x, c] == f[4 * g + (4 * c + t) // channels, y, x, (4 * c + t) % channels]


def test_paper_packing_keeps_frames_in_time():
    f = RNG.standard_normal((8, 2, 3, 16)).astype(np.float32)
    np.testing.assert_array_equal(
        pack_frames(jnp.asarray(f), with_dts(frame_packing="paper").dts), f.reshape(2, 4, 2, 3, 16)
    )


def test_frames_that_are_no_whole_groups_raise():
    with pytest.raises(ValueError, match=r"7 frames \[7, 2, 2, 16\].*frames_per_group=4"):
        pack_frames(jnp.zeros((7, 2, 2, 16)), SMALL.dts)


def test_groups_do_not_see_each_other():
    apply = jax.jit(DynamicTokenSynthesizer(SMALL.dts).apply)
    packed = RNG.standard_normal((3, 4, 4, 4, 16)).astype(np.float32)
    base = np.asarray(apply({"params": PARAMS}, packed))
    assert base.shape == (3, 4, 4, 16)
    packed[1] += 1
    changed = np.asarray(apply({"params": PARAMS}, packed))
    np.testing.assert_array_equal(changed[[0, 2]], base[[0, 2]])
    assert np.abs(changed[1] - base[1]).max() > 1e-2


def test_a_group_of_eight_frames_has_three_stages():
    config = replace(SMALL.dts, frames_per_group=8, frame_packing="paper")
    assert config.num_stages == 3
    packed = RNG.standard_normal((1, 8, 2, 2, 16)).astype(np.float32)
    params = jax.eval_shape(DynamicTokenSynthesizer(config).init, jax.random.key(0), jnp.asarray(packed))["params"]
    assert params.keys() == {"temporal_encoding", "stage_0", "stage_1", "stage_2"}


def temporal_reference(x, term):
    """SPEC 7.2 at one position, index by index. x [T, C]."""
    p = jax.tree.map(np.asarray, PARAMS["stage_0"]["temporal"])
    clip, dim = SMALL.dts.max_relative_offset, x.shape[1]
    grouped = x.reshape(len(x), SMALL.dts.num_norm_groups, -1)
    normed = (grouped - grouped.mean((0, 2), keepdims=True)) / np.sqrt(grouped.var((0, 2), keepdims=True) + 1e-6)
    normed = normed.reshape(x.shape) * p["norm"]["scale"] + p["norm"]["bias"]
    q, k, v = np.split(normed @ p["qkv"]["kernel"] + p["qkv"]["bias"], 3, -1)
    scale = dim**-0.25
    places = range(len(x))
    out = np.zeros_like(x)
    for i in places:
        logits = []
        for j in places:
            asked, offset = (j, i - j) if term == "released" else (i, j - i)
            relative = scale * q[asked] @ p["relative_position_k"][np.clip(offset, -clip, clip) + clip]
            logits.append(scale * q[i] @ (scale * k[j]) + relative)
        weights = np.exp(np.array(logits) - max(logits))
        weights /= weights.sum()
        for j in places:
            out[i] += weights[j] * (v[j] + p["relative_position_v"][np.clip(j - i, -clip, clip) + clip])
    return x + out @ p["proj_out"]["kernel"] + p["proj_out"]["bias"]


@pytest.mark.parametrize("length", [4, 9])
def test_both_relative_terms(length):
    """Nine frames reach beyond the largest offset of 6, where it is clipped."""
    x = RNG.standard_normal((1, length, 1, 2, 16)).astype(np.float32)
    found = {}
    for term in ("released", "textbook"):
        block = TemporalBlock(with_dts(relative_term=term).dts)
        found[term] = np.asarray(jax.jit(block.apply)({"params": PARAMS["stage_0"]["temporal"]}, x))
        for column in range(2):
            expected = temporal_reference(x[0, :, 0, column], term)
            np.testing.assert_allclose(found[term][0, :, 0, column], expected, atol=2e-4)
    assert np.abs(found["released"] - found["textbook"]).max() > 1e-2


def test_convolution_repeats_the_border_and_looks_back_in_time():
    x, params = drawn_conv(RNG, 4)
    ours = np.asarray(jax.jit(HalvingConv(6).apply)({"params": params}, x))
    assert_is_conv(ours, x, params, 2, lambda t: [(dt, max(2 * t + dt - 1, 0)) for dt in range(3)])


def test_a_cpu_convolves_group_by_group(monkeypatch):
    """Where much is gathered, and for the value alone: a gradient and other platforms keep the other form."""
    x, params = drawn_conv(RNG, 4)
    x = jnp.concatenate([x, 2 * x, -x])

    def convolve():  # a new function each time: jit would remember the last one
        return jax.jit(lambda x: HalvingConv(6).apply({"params": params}, x))

    def lowered(platform):
        return convolve().trace(x).lower(lowering_platforms=(platform,)).as_text()

    def slope():
        inner = convolve()
        return jax.grad(lambda x: jnp.sin(inner(x)).sum())(x)

    value, gradient = convolve()(x), slope()
    assert "stablehlo.while" not in lowered("cpu")
    monkeypatch.setattr(dts, "CPU_GATHERED", 1)
    assert "stablehlo.while" in lowered("cpu") and "stablehlo.while" not in lowered("tpu")
    np.testing.assert_allclose(convolve()(x), value, atol=1e-5)
    np.testing.assert_allclose(slope(), gradient, atol=1e-5)


@pytest.mark.parametrize(("compression", "frames"), [("none", 1), ("x2", 2), ("x4", 4), ("x8", 8)])
@pytest.mark.parametrize("packing", ["paper", "released"])
def test_each_compression_goes_through_the_whole_model(compression, frames, packing):
    """Frames to visual tokens of the projector: one group of tokens for 1, 2, 4 or 8 frames; 3B by its shapes."""
    config = replace(SMALL, dts=with_compression(with_dts(frame_packing=packing).dts, compression))
    params = abstract_params(config)
    assert sum(name.startswith("stage_") for name in params["dts"]) == frames.bit_length() - 1
    assert params["dts"]["temporal_encoding"].shape == (frames, 16)
    pixels = jnp.zeros((16, 11, 11, 3))
    tokens = jax.eval_shape(
        lambda p: VideoXLProModel(config).apply({"params": p}, pixels, jnp.arange(16), method="encode"), params
    )
    assert tokens.shape == (16 // frames, config.tokens_per_group, 32)
    released = with_compression(VIDEO_XL_PRO_3B.dts, compression)
    assert released.grid_size**2 // released.frames_per_group == {1: 576, 2: 288, 4: 144, 8: 72}[frames]


def test_x4_is_the_released_compression_and_none_starts_as_the_identity():
    assert with_compression(VIDEO_XL_PRO_3B.dts, "x4") == VIDEO_XL_PRO_3B.dts
    config = with_compression(with_dts(frame_packing="paper").dts, "none")
    frames = RNG.standard_normal((5, 4, 4, 16)).astype(np.float32)
    packed = pack_frames(jnp.asarray(frames), config)
    module = DynamicTokenSynthesizer(config)
    code = module.apply(module.init(jax.random.key(0), packed), packed)
    np.testing.assert_array_equal(code, frames)


def test_an_unknown_compression_is_named():
    with pytest.raises(ValueError, match="compression 'x3': one of .*'x8'"):
        with_compression(SMALL.dts, "x3")
