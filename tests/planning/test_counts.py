"""Counts against the real parameter trees and programs, and against the figures that the project was planned with."""

import jax
import jax.numpy as jnp
import pytest

from tests.small_model import SMALL
from vxlpro_jax.models.presets import PRESETS, TINY, VIDEO_XL_PRO_3B
from vxlpro_jax.models.qwen2 import Qwen2
from vxlpro_jax.models.video_xl_pro import VideoXLProModel, abstract_params
from vxlpro_jax.planning.counts import (
    dts_flops,
    encode_flops,
    index_bytes,
    num_params,
    prefill_flops,
    row_bytes,
    rows_of_video,
    tower_flops,
)
from vxlpro_jax.train.flops import count_flops

LARGE = VIDEO_XL_PRO_3B


@pytest.mark.parametrize("config", [SMALL, *PRESETS.values()], ids=["small", *PRESETS])
def test_every_parameter_is_counted(config):
    tree = abstract_params(config)
    assert num_params(config) == {part: sum(leaf.size for leaf in jax.tree.leaves(tree[part])) for part in tree}


def test_operations_of_the_encoder_are_those_of_the_program():
    def encode(params, pixels):
        return VideoXLProModel(LARGE).apply({"params": params}, pixels, jnp.arange(8), method=VideoXLProModel.encode)

    size = LARGE.vision.image_size
    counted = count_flops(encode, abstract_params(LARGE), jax.ShapeDtypeStruct((8, size, size, 3), jnp.float32))
    assert encode_flops(LARGE, 8) == pytest.approx(counted, rel=0.005)


def test_operations_of_prefill_are_those_of_the_program_with_half_of_the_scores():
    """The program at 512 rows multiplies each row with all others; those before it are half of them."""
    llm, rows = LARGE.llm, 512
    shape = jax.ShapeDtypeStruct((1, rows, llm.dim), jnp.float32)
    ints, valid = jax.ShapeDtypeStruct((1, rows), jnp.int32), jax.ShapeDtypeStruct((1, rows), bool)
    counted = count_flops(
        lambda params, *parts: Qwen2(llm).apply({"params": params}, *parts),
        *(abstract_params(LARGE)["llm"], shape, ints, valid),
    )
    later = 2 * llm.num_layers * rows**2 * llm.num_heads * llm.head_dim
    assert prefill_flops(llm, rows) + later == pytest.approx(counted, rel=0.005)


def test_the_figures_that_the_project_was_planned_with():
    """TFLOP a frame, a group and a token, bytes a token and a frame, each to the digits that were written down."""
    assert tower_flops(LARGE.vision) / 1e12 == pytest.approx(0.642, abs=0.0005)
    assert dts_flops(LARGE.dts) / 1e12 == pytest.approx(0.206, abs=0.0005)
    assert prefill_flops(LARGE.llm, 1) / 1e9 == pytest.approx(5.55, abs=0.005)
    assert row_bytes(LARGE.llm) == 36_864 and index_bytes(LARGE, 4) == 4 * 147_456
    assert rows_of_video(LARGE, 16_384) == 4096 * 154 and rows_of_video(LARGE, 5) == 2 * 154


@pytest.mark.parametrize(
    "frames, encode, whole, selected, a100, h200",
    [
        (128, 0.09, 0.03, 0.03, (0.4, 0.4), (0.2, 0.2)),
        (256, 0.18, 0.07, 0.07, (0.8, 0.8), (0.3, 0.3)),
        (2048, 1.42, 1.35, 0.34, (8.9, 5.6), (3.5, 2.2)),
        (8192, 5.70, 16.4, 0.34, (70.9, 19.3), (28.0, 7.6)),
        (16384, 11.4, 62.2, 0.34, (236, 37.6), (93, 14.8)),
    ],
)
def test_the_table_that_the_project_was_planned_with(frames, encode, whole, selected, a100, h200):
    """PFLOP and seconds at 312 and 790 TFLOP/s, within 1 % and the last digit written."""
    rows = rows_of_video(LARGE, frames)
    ours = [encode_flops(LARGE, frames), prefill_flops(LARGE.llm, rows), prefill_flops(LARGE.llm, min(rows, 32768))]
    for flops, expected in zip(ours, (encode, whole, selected), strict=True):
        assert flops / 1e15 == pytest.approx(expected, rel=0.01, abs=0.005)
    for rate, seconds in ((312e12, a100), (790e12, h200)):
        for read, expected in zip(ours[1:], seconds, strict=True):
            assert (ours[0] + read) / rate == pytest.approx(expected, rel=0.01, abs=0.051)


def test_no_size_stands_here_that_a_preset_does_not_give():
    """Half of everything: another model's counts follow from its sizes."""
    assert row_bytes(TINY.llm) == 2 * 2 * 4 * 2 * 32
    assert rows_of_video(TINY, 8) == 2 * (4 + 3)
