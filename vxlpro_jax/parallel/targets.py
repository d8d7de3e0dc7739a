"""Devices to compile for that need not be there.

Source: ours. The compilers are those of requirements-aot.txt: GPUs are described by files in assets/targets, TPUs are
known to theirs by name.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies

FOLDER = Path(__file__).parent.parent / "assets" / "targets"
TPU_TOPOLOGIES = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
# A compiler without a device asks for one, or for its maker's servers, unless it is told not to.
_TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
}


class Target(NamedTuple):
    """One device. sharding: of arrays that lie on it; platform: as jax calls it when it lowers for it."""

    sharding: jax.sharding.NamedSharding
    platform: str


def target_names() -> list[str]:
    """Devices that can be compiled for."""
    return sorted({*TPU_TOPOLOGIES, *(path.stem for path in FOLDER.glob("*.txtpb"))})


def target_named(name: str) -> Target:
    """Raises ValueError for a device that is unknown, or whose compiler is not installed."""
    if name not in target_names():
        raise ValueError(f"device {name!r}: there are compilers for {', '.join(target_names())}")
    jax.config.update("jax_platforms", "cpu")
    os.environ.update(_TPU_ENVIRONMENT)
    describe: Callable[..., Any] = topologies.get_topology_desc
    try:
        if name in TPU_TOPOLOGIES:
            return on_device(describe(platform="tpu", topology_name=TPU_TOPOLOGIES[name]).devices[0], "tpu")
        text = (FOLDER / f"{name}.txtpb").read_text(encoding="utf-8")
        found = describe(platform="cuda", topology_name=name, target_config=text, topology="1x1x1")
        return on_device(found.devices[0], "cuda")
    except (RuntimeError, NotImplementedError, ImportError) as error:
        raise ValueError(
            f"device {name!r}: its compiler is not installed ({error}); "
            "`pip install -r requirements-aot.txt` in an environment of its own (2 GB) brings it"
        ) from error


def on_device(device: Any, platform: str) -> Target:
    """A device as a target."""
    mesh = jax.sharding.Mesh(np.array([device]), ("data",))
    return Target(jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()), platform)
