"""The only file that knows Orbax: parameters to and from a folder, without holding them twice.

Source: ours. Parameters lie in a sub-folder `params`, so that config.json and
a tokenizer can stand beside them as in the released layout.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict

PARAMS_FOLDER = "params"
_ALIGNMENT = 64  # bytes; numpy arrays at such addresses become jax arrays without a copy on CPU


class CheckpointError(ValueError):
    """A folder that is no checkpoint of ours, is damaged, or holds other parameters than the model needs."""


def has_params(folder: Path) -> bool:
    """Tell whether a folder holds parameters that `save_params` wrote."""
    return (folder / PARAMS_FOLDER / "_METADATA").is_file()


def save_params(folder: Path, params: Mapping[str, Any]) -> None:
    """Write a nested dict of arrays below `folder`; bytes are kept as they are, whatever their type.

    Peak memory is the parameters themselves; arrays that numpy made at addresses that are no multiple of 64 are copied
    first.
    """
    arrays = jax.tree.map(jax.device_put, dict(params))
    # Compression, chunks and smaller data files would each buffer copies; trained weights hardly compress anyway.
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_compression=False)) as checkpointer:
        checkpointer.save((folder / PARAMS_FOLDER).absolute(), args=ocp.args.PyTreeSave(arrays))


def stored_params(folder: Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shape and type of every stored parameter by its path, names joined by "/", from the metadata alone.

    Raises:
        CheckpointError: the folder holds no parameters, or their metadata is damaged.
    """
    if not has_params(folder):
        raise CheckpointError(
            f"{folder}: no {PARAMS_FOLDER}/_METADATA; a folder that vxlpro wrote with --to orbax is needed."
        )
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            metadata = checkpointer.metadata((folder / PARAMS_FOLDER).absolute()).item_metadata
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder / PARAMS_FOLDER}: damaged metadata ({error}).") from error
    if metadata is None:  # what Orbax answers where files are missing or cut; it logs which
        raise CheckpointError(f"{folder / PARAMS_FOLDER}: damaged metadata, or files are missing.")
    leaves = flatten_dict(metadata.tree, sep="/")
    return {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in leaves.items()}


def read_some(
    folder: Path, wanted: Mapping[str, jax.ShapeDtypeStruct], dtype: np.dtype | None = None
) -> dict[str, Any]:
    """Read some parameters in one go.

    Args:
        folder: as given to `save_params`.
        wanted: by path, names joined by "/": the stored shape and type, as `stored_params` tells them, and perhaps a
            sharding. A leaf with one comes as jax.Array laid out by it, one without as numpy array.
        dtype: type to cast to; None keeps the stored one.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    how = {
        path: ocp.RestoreArgs(restore_type=np.ndarray, dtype=dtype)
        if leaf.sharding is None
        else ocp.ArrayRestoreArgs(sharding=leaf.sharding, dtype=dtype)
        for path, leaf in wanted.items()
    }
    args = ocp.args.PyTreeRestore(
        item=unflatten_dict(dict(wanted), sep="/"),
        restore_args=unflatten_dict(how, sep="/"),
        partial_restore=True,
    )
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            tree = checkpointer.restore((folder / PARAMS_FOLDER).absolute(), args=args)
    except (OSError, ValueError) as error:
        names = ", ".join(list(wanted)[:3])
        raise CheckpointError(f"{folder / PARAMS_FOLDER}: {names} ... cannot be read ({error}).") from error
    return {path: _align(leaf) for path, leaf in flatten_dict(tree, sep="/").items()}


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an uninitialised array that jax can take over without a copy."""
    num_bytes = math.prod(shape) * dtype.itemsize
    raw = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + num_bytes].view(dtype).reshape(shape)


def _align(leaf: Any) -> Any:
    """Return a numpy array at an address as `aligned_empty` chooses it; a jax array as it is."""
    if not isinstance(leaf, np.ndarray) or leaf.ctypes.data % _ALIGNMENT == 0:
        return leaf
    copy = aligned_empty(leaf.shape, leaf.dtype)
    copy[...] = leaf
    return copy


def read_groups(leaves: Mapping[str, jax.ShapeDtypeStruct], group_bytes: int = 2**25) -> list[list[str]]:
    """Cut paths, in their order, into groups to read in one go: of at most `group_bytes`, or a single larger leaf."""
    groups: list[list[str]] = [[]]
    filled = 0
    for path, leaf in leaves.items():
        num_bytes = leaf.size * leaf.dtype.itemsize
        if groups[-1] and filled + num_bytes > group_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(path)
        filled += num_bytes
    return groups


def restore_params(folder: Path, abstract: Mapping[str, Any], dtype: np.dtype | None = None) -> dict[str, Any]:
    """Read parameters group by group, the largest leaf first, so that peak memory is hardly more than the parameters.

    Args:
        folder: as given to `save_params`.
        abstract: nested dict of jax.ShapeDtypeStruct: the shapes asked for. A leaf with a sharding comes as jax.Array
            laid out by it; one without as numpy array.
        dtype: type to cast to; None keeps the stored one.

    Raises:
        CheckpointError: other names or shapes than asked for, or a damaged file; the message names them.
    """
    stored = stored_params(folder)
    wanted = flatten_dict(dict(abstract), sep="/")
    check_names(folder, stored, wanted)
    largest_first = sorted(stored, key=lambda path: -stored[path].size)
    leaves = {
        path: jax.ShapeDtypeStruct(stored[path].shape, stored[path].dtype, sharding=wanted[path].sharding)
        for path in largest_first
    }
    read: dict[str, Any] = {}
    for group in read_groups(leaves):
        read |= read_some(folder, {path: leaves[path] for path in group}, dtype)
    return unflatten_dict(read, sep="/")


def check_names(folder: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless what is stored has exactly the names and shapes that are wanted."""
    faults = [f"lacks {path}" for path in sorted(wanted.keys() - stored.keys())]
    faults += [f"holds {path}, which the model has not" for path in sorted(stored.keys() - wanted.keys())]
    faults += [
        f"{path} is {list(stored[path].shape)}, the model's is {list(leaf.shape)}"
        for path, leaf in wanted.items()
        if path in stored and tuple(stored[path].shape) != tuple(leaf.shape)
    ]
    if faults:
        more = f" and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise CheckpointError(f"{folder}: {'; '.join(faults[:8])}{more}. Does config.json belong to these parameters?")
