"""What accelerators can do: memory, operations and bytes per second of one device.

Source: the vendors' data sheets, where no other source is named. No jax here: what reckons with devices starts fast.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """One accelerator. memory_bytes: what a program can have in all. peak_flops: dense bfloat16 operations per second.
    bytes_per_s: of its memory. kinds: what jax's device_kind contains, in lower case. reserves_share: whether jax takes
    a share of the memory at its start (XLA_PYTHON_CLIENT_MEM_FRACTION, 0.75 unless set)."""

    name: str
    memory_bytes: float
    peak_flops: float
    bytes_per_s: float
    kinds: tuple[str, ...]
    reserves_share: bool


# In the order in which kinds are looked for. Memory of A100 and H100: what CUDA reports of an 80 GB card; of v5e: what
# its compiler lets a program have; of the others the data sheet's decimal gigabytes, a little less than there is.
DEVICES = (
    Device("h200", 141e9, 989e12, 4.8e12, ("h200",), True),
    Device("h100-80gb", 84_942_979_072, 989e12, 3.352e12, ("h100",), True),
    Device("a100-80gb", 85_100_068_864, 312e12, 2.039e12, ("a100", "a800"), True),
    Device("v6e", 32e9, 918e12, 1.64e12, ("v6",), False),
    Device("v5e", 15.75 * 2**30, 197e12, 0.819e12, ("v5 lite", "v5e"), False),
    Device("v5p", 95e9, 459e12, 2.765e12, ("v5p", "v5"), False),
    Device("v4", 32e9, 275e12, 1.228e12, ("v4",), False),
)


def device_named(name: str) -> Device:
    """Raises ValueError for a device that is not in DEVICES."""
    for device in DEVICES:
        if device.name == name.lower():
            return device
    raise ValueError(
        f"device {name!r}: one of {', '.join(sorted(device.name for device in DEVICES))} is accepted; another one is "
        "added in vxlpro_jax/parallel/devices.py"
    )


def device_of_kind(kind: str) -> Device | None:
    """The device that jax calls so; None where it is not in DEVICES."""
    return next((device for device in DEVICES if any(part in kind.lower() for part in device.kinds)), None)
