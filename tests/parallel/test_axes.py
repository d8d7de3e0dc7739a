"""The strict resolver of logical axis names."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from vxlpro_jax.parallel import axes
from vxlpro_jax.parallel.axes import FSDP_TENSOR, UNSHARDED, constrain, resolve
from vxlpro_jax.parallel.mesh import make_mesh


def test_names_become_mesh_axes_in_order():
    assert resolve((axes.LAYERS, axes.EMBED, axes.MLP), FSDP_TENSOR) == PartitionSpec(None, "data", "tensor")
    assert resolve((None, axes.VOCAB), FSDP_TENSOR) == PartitionSpec(None, "tensor")
    assert resolve((axes.BATCH,), (("batch", ("data", "tensor")),)) == PartitionSpec(("data", "tensor"))


def test_an_unknown_name_raises():
    with pytest.raises(ValueError, match="'embedd' has no rule"):
        resolve(("embedd", axes.MLP), FSDP_TENSOR)


def test_a_mesh_axis_used_twice_raises_and_names_both():
    with pytest.raises(ValueError, match="mesh axis 'data' would carry both 'embed' and 'vision'"):
        resolve((axes.EMBED, axes.VISION), FSDP_TENSOR)
    with pytest.raises(ValueError, match="'tensor'"):
        resolve((axes.MLP, axes.MLP), FSDP_TENSOR)


def test_a_name_without_mesh_axes_may_come_twice():
    assert resolve((axes.TAPS, axes.TAPS, axes.DTS), FSDP_TENSOR) == PartitionSpec(None, None, "data")


def test_the_table_has_a_rule_for_every_name_and_no_other():
    names = [value for key, value in vars(axes).items() if key.isupper() and isinstance(value, str)]
    assert [name for name, _ in FSDP_TENSOR] == names and len(set(names)) == len(names)


def test_constrain_pins_the_layout_under_a_mesh_and_is_nothing_without_rules():
    x = jnp.arange(32.0).reshape(4, 8)
    assert constrain(x, ("no such name", None), UNSHARDED) is x
    with jax.set_mesh(make_mesh({"data": 2, "tensor": 2})):
        pinned = jax.jit(lambda v: constrain(v * 1, (axes.BATCH, axes.MLP), FSDP_TENSOR))(x)
    assert pinned.sharding.shard_shape(pinned.shape) == (2, 4)
    assert (pinned == x).all()
