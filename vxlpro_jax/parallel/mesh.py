"""Device meshes: the one place that asks which devices there are.

Source: ours; the paper names its GPUs and no layout over them.
"""

import jax
from jax.sharding import AxisType, Mesh


def make_mesh(shape: dict[str, int]) -> Mesh:
    """A mesh of the first devices with these axes, for example {"data": 4, "tensor": 2}.

    Axes are Auto: under the newer default (Explicit) Linen's layers raise. Raises ValueError when there are too few
    devices.
    """
    size = 1
    for count in shape.values():
        size *= count
    devices = jax.devices()
    if size > len(devices):
        raise ValueError(
            f"mesh {shape} needs {size} devices, there are {len(devices)}: change the mesh shape in the config"
        )
    return jax.make_mesh(
        tuple(shape.values()), tuple(shape), axis_types=(AxisType.Auto,) * len(shape), devices=devices[:size]
    )
