"""Meshes over the four fake devices of conftest.py."""

import jax
import pytest
from jax.sharding import AxisType

from vxlpro_jax.parallel.mesh import make_mesh


def test_axes_shape_and_type():
    mesh = make_mesh({"data": 2, "tensor": 2})
    assert dict(mesh.shape) == {"data": 2, "tensor": 2}
    assert mesh.axis_names == ("data", "tensor")
    assert set(mesh.axis_types) == {AxisType.Auto}  # under Explicit, Linen's layers raise


def test_fewer_devices_than_there_are():
    assert make_mesh({"data": 1, "tensor": 2}).devices.size == 2


def test_too_few_devices():
    with pytest.raises(ValueError, match=rf"needs 64 devices, there are {len(jax.devices())}"):
        make_mesh({"data": 8, "tensor": 8})
