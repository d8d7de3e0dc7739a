"""The formulas against figures of compilers: programs of the same computation, compiled for an A100 and TPUs, bfloat16.

The figures (MiB of 2^20 bytes) are of throw-away programs compiled before these formulas were written; they held the
LLM's weights alone.
"""

import pytest

from vxlpro_jax.models.presets import VIDEO_XL_PRO_3B
from vxlpro_jax.parallel.devices import device_named
from vxlpro_jax.planning.counts import WORD_BYTES, num_params, row_bytes, rows_of_video
from vxlpro_jax.planning.memory import (
    GIB,
    PIECE_ROWS,
    SPARE_BYTES,
    Part,
    cache_rows,
    dts_activation_bytes,
    encoder_bytes,
    parts,
    peak_bytes,
    piece_bytes,
    tower_activation_bytes,
)

LARGE = VIDEO_XL_PRO_3B
MIB = 2**20
LLM_BYTES = WORD_BYTES * num_params(LARGE)["llm"]


@pytest.mark.parametrize("frames, plain, fused", [(16, 861, 186), (32, 1680, 324), (64, 3359, 648), (128, 6718, 1296)])
def test_the_tower_within_3_percent_and_25_mib(frames, plain, fused):
    for whole_scores, expected in ((True, plain), (False, fused)):
        ours = tower_activation_bytes(LARGE.vision, frames, whole_scores) / MIB
        assert ours == pytest.approx(expected, rel=0.03, abs=25)


@pytest.mark.parametrize("rows_k, expected", [(32, 7046), (128, 10502), (308, 16982), (616, 28070), (1232, 50246)])
def test_weights_cache_and_input_within_a_mib(rows_k, expected):
    piece = PIECE_ROWS * LARGE.llm.dim * WORD_BYTES
    ours = LLM_BYTES + cache_rows(rows_k * 1024) * row_bytes(LARGE.llm) + piece
    assert ours / MIB == pytest.approx(expected, abs=1)


def test_a_piece_of_a_prompt_with_a_kernel_for_attention():
    assert piece_bytes(LARGE.llm) / MIB == pytest.approx(192, rel=0.01)


@pytest.mark.parametrize(
    "device, share, tokens",
    [
        ("a100-80gb", 0.75, 1.5e6),
        ("a100-80gb", 0.95, 1.95e6),
        ("v5p", 1, 2.5e6),
        ("v6e", 1, 0.7e6),
        ("v5e", 1, 0.245e6),
    ],
)
def test_tokens_that_a_device_holds_within_6_percent(device, share, tokens):
    room = share * device_named(device).memory_bytes - LLM_BYTES - piece_bytes(LARGE.llm) - SPARE_BYTES
    assert room / row_bytes(LARGE.llm) == pytest.approx(tokens, rel=0.06)


@pytest.mark.parametrize("frames, gib", [(8192, 17.806), (32768, 50.291), (32768, 50.183)], ids=["a100", "a100", "v5p"])
def test_the_project_s_own_programs_as_compiled(frames, gib):
    """`make aot` (bench/aot_memory.py): weights, cache and the dearer of reading a piece and decoding, everything kept;
    compiled after the formula was written. It has no spare GiB."""
    held = parts(LARGE, frames, rows_of_video(LARGE, frames) + 256, 64)  # 256 rows of prompt and answer
    assert (peak_bytes(held) - SPARE_BYTES) / GIB == pytest.approx(gib, rel=0.01)


def test_the_larger_of_tower_and_token_synthesizer_counts():
    pixels = 4 * 3 * 384**2 * 64
    assert encoder_bytes(LARGE, 64) - pixels == tower_activation_bytes(LARGE.vision, 64, True)
    assert 0 < dts_activation_bytes(LARGE.dts, 16) < tower_activation_bytes(LARGE.vision, 64, True)


def test_phases_follow_each_other_and_what_is_always_there_is_added():
    held = [
        Part("a", 10, "device", "always"),
        Part("b", 5, "device", "encode"),
        Part("c", 3, "device", "answer"),
        Part("d", 4, "device", "answer"),
        Part("e", 100, "host", "always"),
    ]
    assert peak_bytes(held) == 17 and peak_bytes(held, "host") == 100


def test_only_index_and_numbers_grow_with_frames_when_a_context_is_read():
    short, long = (parts(LARGE, frames, 32768, 64) for frames in (8192, 49152))
    grown = {one.name for one, other in zip(short, long, strict=True) if other.bytes > one.bytes}
    assert grown == {"index", "choosing tokens"}
    assert peak_bytes(short) == peak_bytes(long)
    assert peak_bytes(long, "host") == 49152 * 147_456
