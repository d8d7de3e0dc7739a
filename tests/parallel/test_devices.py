"""Devices by their names and by what jax calls them."""

import jax
import pytest

from vxlpro_jax.parallel.devices import DEVICES, device_named, device_of_kind
from vxlpro_jax.parallel.mesh import peak_flops


@pytest.mark.parametrize(
    "kind, name",
    [
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100-80gb"),
        ("NVIDIA H200", "h200"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU v4", "v4"),
    ],
)
def test_what_jax_calls_a_device_and_what_we_call_it(kind, name):
    assert device_of_kind(kind) is device_named(name) is device_named(name.upper())


def test_unknown_devices():
    assert device_of_kind("cpu") is None
    if jax.default_backend() == "cpu":
        assert peak_flops(4) == 0
    with pytest.raises(ValueError, match="'tpu-v9': one of a100-80gb, h100-80gb, .*v6e is accepted"):
        device_named("tpu-v9")


def test_no_device_answers_for_another():
    for device in DEVICES:
        assert all(device_of_kind(kind) is device for kind in device.kinds)
