"""The compiler's figures of our programs; here the CPU stands in for the device, whose compiler is always there."""

import jax
import pytest

from tests.small_model import SMALL
from vxlpro_jax.infer import compiled_memory
from vxlpro_jax.infer.compiled_memory import DECODE, READ, Compiler
from vxlpro_jax.infer.reading import PIECE_LEN
from vxlpro_jax.parallel.targets import on_device
from vxlpro_jax.planning.counts import row_bytes, weight_bytes


@pytest.fixture
def compiler(monkeypatch) -> Compiler:
    monkeypatch.setattr(compiled_memory, "target_named", lambda name: on_device(jax.devices("cpu")[0], "cpu"))
    return Compiler(SMALL, "v5e")


def test_weights_and_cache_are_those_of_the_formula(compiler):
    assert compiler.weight_bytes() == weight_bytes(SMALL)
    numbers = 2 * 4  # where each row of the cache begins and ends, beside its keys and values
    for rows, slots in ((100, 100), (PIECE_LEN + 1, 2 * PIECE_LEN)):
        assert compiler.cache_bytes(rows) - slots * row_bytes(SMALL.llm) in range(numbers, numbers + slots + 1)


def test_programs_need_what_their_inputs_ask_for(compiler):
    size = SMALL.vision.image_size
    four, sixteen = (compiler.encode_bytes(frames) for frames in (4, 16))
    assert 4 * 3 * size**2 * 4 < four < sixteen < 8 * four
    programs = compiler.answer_bytes(300)
    assert set(programs) == {READ, DECODE} and min(programs.values()) > 0


def test_a_cache_that_is_copied_is_told(compiler, monkeypatch):
    copying = jax.jit(compiled_memory._read_piece.__wrapped__, static_argnames=("model",))
    monkeypatch.setattr(compiled_memory, "_read_piece", copying)
    with pytest.raises(ValueError, match="read a piece the cache is copied"):
        compiler.answer_bytes(300)


def test_too_small_a_device_is_told(compiler, monkeypatch):
    class Full:
        def lower(self, **_):
            return self

        def as_text(self):
            return ""

        def compile(self, **_):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Used 16.58G of 15.75G hbm.\nMore lines.")

    monkeypatch.setattr(compiled_memory.encode_frames, "trace", lambda *_: Full(), raising=False)
    with pytest.raises(ValueError, match="^to encode the device's memory is too small: .* of 15.75G hbm.$"):
        compiler.encode_bytes(4)
