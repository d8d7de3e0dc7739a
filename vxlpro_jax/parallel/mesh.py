"""Device meshes: the one place that asks which devices there are.

Source: ours; the paper names its GPUs and no layout over them.
"""

import resource

import jax
from jax.sharding import AxisType, Mesh

from vxlpro_jax.parallel.devices import device_of_kind


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


def peak_flops(num_devices: int) -> float:
    """Peak operations per second of so many of these devices together; 0 where the device is not known."""
    device = device_of_kind(jax.devices()[0].device_kind)
    return num_devices * device.peak_flops if device else 0.0


def device_memory() -> float | None:
    """GiB that the fullest of this process's devices has held at most; None where the device does not say (CPU)."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [line["peak_bytes_in_use"] for line in stats if "peak_bytes_in_use" in line]
    return round(max(peaks) / 2**30, 3) if peaks else None


def process_memory() -> float:
    """GiB that this process has held at most."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(kib / 2**20, 3)
