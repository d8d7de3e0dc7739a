"""The only file that knows Orbax: parameters to and from a folder, without holding them twice.

Source: issue "Ask a video", section 3 (peak memory). Parameters lie in a sub-folder `params`, so that config.json and
a tokenizer can stand beside them as in the released layout.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict

PARAMS_FOLDER = "params"


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


def read_param(
    folder: Path,
    path: str,
    stored: jax.ShapeDtypeStruct,
    dtype: np.dtype | None = None,
    sharding: jax.sharding.Sharding | None = None,
) -> Any:
    """Read one parameter.

    Args:
        folder: as given to `save_params`.
        path: its names joined by "/".
        stored: its entry in `stored_params`.
        dtype: type to cast to; None keeps the stored one.
        sharding: None for a numpy array, else a jax.Array laid out by it.

    Raises:
        CheckpointError: its file is missing or damaged.
    """
    how: ocp.RestoreArgs = ocp.RestoreArgs(restore_type=np.ndarray, dtype=dtype)
    if sharding is not None:
        how = ocp.ArrayRestoreArgs(sharding=sharding, dtype=dtype)
    args = ocp.args.PyTreeRestore(
        item=unflatten_dict({path: stored}, sep="/"),
        restore_args=unflatten_dict({path: how}, sep="/"),
        partial_restore=True,
    )
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            tree = checkpointer.restore((folder / PARAMS_FOLDER).absolute(), args=args)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / PARAMS_FOLDER}: {path} cannot be read ({error}).") from error
    return flatten_dict(tree, sep="/")[path]


def restore_params(folder: Path, abstract: Mapping[str, Any], dtype: np.dtype | None = None) -> dict[str, Any]:
    """Read parameters, one leaf after the other, so that peak memory is the parameters and one leaf.

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
    leaves = {path: read_param(folder, path, stored[path], dtype, leaf.sharding) for path, leaf in wanted.items()}
    return unflatten_dict(leaves, sep="/")


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
