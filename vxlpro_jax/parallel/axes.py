"""Logical axis names, and the strict rules that map them to mesh axes.

A parameter or activation names its axes by meaning; a rule table says which mesh axes carry each. Unlike Linen's own
resolver this one raises on a name without a rule and on a mesh axis used twice in one array.

Source: ours; logical names after Flax Linen's.
"""

import math
from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

# Activations
BATCH = "batch"
GROUPS = "groups"
SEQUENCE = "sequence"
# Parameters
LAYERS = "layers"
EMBED = "embed"
MLP = "mlp"
HEADS = "heads"
KV_HEADS = "kv_heads"
VOCAB = "vocab"
VISION = "vision"
VISION_MLP = "vision_mlp"
VISION_HEADS = "vision_heads"
DTS = "dts"
DTS_OUT = "dts_out"
TAPS = "taps"
POSITIONS = "positions"

Rules = tuple[tuple[str, tuple[str, ...]], ...]

UNSHARDED: Rules = ()
"""No mesh: constraints vanish. For one device."""

# Two-dimensional: batch and weights over "data" (fully sharded), wide inner axes over "tensor".
FSDP_TENSOR: Rules = (
    (BATCH, ("data",)),
    (GROUPS, ("data",)),
    (SEQUENCE, ()),
    (LAYERS, ()),
    (EMBED, ("data",)),
    (MLP, ("tensor",)),
    (HEADS, ("tensor",)),
    (KV_HEADS, ("tensor",)),
    (VOCAB, ("tensor",)),
    (VISION, ("data",)),
    (VISION_MLP, ("tensor",)),
    (VISION_HEADS, ("tensor",)),
    (DTS, ("data",)),
    (DTS_OUT, ("tensor",)),
    (TAPS, ()),
    (POSITIONS, ()),
)


def resolve(names: tuple[str | None, ...], rules: Rules) -> PartitionSpec:
    """Mesh axes of an array whose axes are `names` (None: not sharded).

    Raises ValueError on a name that `rules` does not know and on a mesh axis that would carry two axes of the array.
    """
    table = dict(rules)
    used: dict[str, str] = {}
    spec = []
    for name in names:
        if name is not None and name not in table:
            raise ValueError(f"logical axis {name!r} has no rule; rules know {sorted(table)}: see parallel/axes.py")
        mesh_axes = table[name] if name is not None else ()
        for axis in mesh_axes:
            if axis in used:
                raise ValueError(
                    f"mesh axis {axis!r} would carry both {used[axis]!r} and {name!r} of {names}: change the rules"
                )
            used[axis] = str(name)
        spec.append(mesh_axes if len(mesh_axes) > 1 else (mesh_axes[0] if mesh_axes else None))
    return PartitionSpec(*spec)


def constrain(x: jax.Array, names: tuple[str | None, ...], rules: Rules) -> jax.Array:
    """Pins an activation's layout under the mesh in force; with UNSHARDED rules it returns x."""
    if rules == UNSHARDED:
        return x
    return jax.lax.with_sharding_constraint(x, resolve(names, rules))


def divides(shape: tuple[int, ...], names: tuple[str | None, ...], rules: Rules) -> bool:
    """Whether the mesh in force cuts an array of this shape into equal pieces; one piece is one too."""
    if rules == UNSHARDED:
        return True
    mesh = jax.sharding.get_abstract_mesh().shape
    for length, entry in zip(shape, resolve(names, rules), strict=True):
        mesh_axes = entry if isinstance(entry, tuple) else (entry,) if entry else ()
        if length % math.prod(mesh[axis] for axis in mesh_axes):
            return False
    return True


def on_pieces(
    function: Callable[..., jax.Array], names: tuple[str | None, ...], rules: Rules
) -> Callable[..., jax.Array]:
    """`function` of arrays whose axes are all `names`, where each device does its own piece alone: for kernels, which
    XLA cannot split. With UNSHARDED rules it is `function` itself; else the mesh in force must divide the arrays."""
    if rules == UNSHARDED:
        return function
    spec = resolve(names, rules)
    return jax.shard_map(function, in_specs=spec, out_specs=spec, check_vma=False)
