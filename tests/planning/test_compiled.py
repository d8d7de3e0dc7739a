"""The parts of a plan by the compiler; here the CPU stands in for the device."""

import jax

from vxlpro_jax.infer import compiled_memory
from vxlpro_jax.infer.compiled_memory import Compiler
from vxlpro_jax.parallel.devices import device_named
from vxlpro_jax.parallel.targets import on_device
from vxlpro_jax.planning.compiled import compiled_parts
from vxlpro_jax.planning.memory import parts
from vxlpro_jax.planning.plan import Work, rows_read


def test_parts_are_named_and_sized_as_the_formula_has_them(monkeypatch):
    monkeypatch.setattr(compiled_memory, "target_named", lambda name: on_device(jax.devices("cpu")[0], "cpu"))
    work = Work("tiny", device_named("v5e"), 30, frames_per_batch=17, max_new_tokens=20)
    said: list[str] = []
    found = compiled_parts(work, said.append)
    computed = {part.name: part for part in parts(work.config, 30, rows_read(work) + 20, 17)}
    assert found.keys() <= computed.keys()
    for name in ("weights", "key/value cache"):
        assert abs(found[name] - computed[name].bytes) < 0.01 * computed[name].bytes
    assert found["encoder activations"] == Compiler(work.config, "v5e").encode_bytes(16)  # whole groups
    assert found["workspace of prefill"] > 0 and said == ["compiling three programs for v5e: this can take minutes"]
