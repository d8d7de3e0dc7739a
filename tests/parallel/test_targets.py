"""Devices to compile for: which there are, and what is told where one or its compiler is missing."""

import pytest

from vxlpro_jax.parallel import targets
from vxlpro_jax.parallel.devices import device_named
from vxlpro_jax.parallel.targets import target_named, target_names


def test_all_are_devices_that_plans_know():
    assert {"a100-80gb", "h100-80gb", "v5e", "v5p", "v6e"} <= set(target_names())
    assert [device_named(name).name for name in target_names()] == target_names()


def test_an_unknown_one_is_told():
    with pytest.raises(ValueError, match="'h200': there are compilers for a100-80gb, .*v6e"):
        target_named("h200")


@pytest.mark.parametrize("name", ["v5e", "a100-80gb"])
def test_a_missing_compiler_is_told(monkeypatch, name):
    def missing(**_):
        raise NotImplementedError("topology not implemented")

    monkeypatch.setattr(targets.topologies, "get_topology_desc", missing)
    with pytest.raises(ValueError, match="compiler is not installed .* -r requirements-aot.txt"):
        target_named(name)
