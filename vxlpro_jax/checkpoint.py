"""The only file that knows Orbax: parameters to and from a folder without holding them twice, and a run's states.

Source: ours. Parameters lie in a sub-folder `params`, so that config.json and
a tokenizer can stand beside them as in the released layout.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

PARAMS_FOLDER = "params"
_ALIGNMENT = 64  # bytes; numpy arrays at such addresses become jax arrays without a copy on CPU


def _orbax() -> Any:
    """Orbax, imported where it is used: those who read other folders start without it."""
    import orbax.checkpoint

    return orbax.checkpoint


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
    ocp = _orbax()
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
    ocp = _orbax()
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
    ocp = _orbax()
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


def check_names(
    folder: Path,
    stored: Mapping[str, Any],
    wanted: Mapping[str, Any],
    advice: str = "Does config.json belong to these parameters?",
) -> None:
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
        raise CheckpointError(f"{folder}: {'; '.join(faults[:8])}{more}. {advice}")


@dataclass
class _BestSteps:
    """A PreservationPolicy. Orbax's BestN knows nothing of steps that were saved before the run was started again."""

    number: int
    quality_of: Callable[[int], float | None]

    def should_preserve(self, checkpoints, *, context):
        rated = [(quality, info.step) for info in checkpoints if (quality := self.quality_of(info.step)) is not None]
        best = {step for _, step in sorted(rated, reverse=True)[: self.number]}
        return [info.step in best for info in checkpoints]


def has_state(folder: Path) -> bool:
    """Tell whether the folder of RunCheckpoints holds a state to go on from."""
    if not folder.exists():
        return False
    with closing(RunCheckpoints(folder, 1, 0)) as checkpoints:
        return checkpoints.latest() is not None


class RunCheckpoints:
    """The states of one training run by step, written beside the run: each is whole or not there.

    Kept are the last `keep_last` and the `keep_best` of highest quality. quality_of: step -> its quality, None where it
    has none; asked whenever a state is written, so that a state may be judged after it was saved.
    Raises CheckpointError where the disk is full or the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        keep_last: int,
        keep_best: int,
        quality_of: Callable[[int], float | None] = lambda step: None,
    ):
        ocp = _orbax()
        policies = [ocp.checkpoint_managers.LatestN(keep_last), _BestSteps(keep_best, quality_of)]
        self.folder = folder.absolute()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
            # Saving whenever asked: Orbax's own idea of when is not ours.
            should_save_fn=lambda step, latest: True,
            cleanup_tmp_directories=True,
            create=True,
        )
        handlers = {"state": ocp.StandardCheckpointHandler(), "record": ocp.JsonCheckpointHandler()}
        with self._telling("open"):
            self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def latest(self) -> int | None:
        """The last step that is whole."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """All steps that are whole and kept."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Start writing a state and what belongs to it; training goes on meanwhile.

        On CPU the arrays are copied first: there Orbax reads the very memory that the next step overwrites.
        """
        if jax.default_backend() == "cpu":
            state = jax.tree.map(jnp.copy, state)
        ocp = _orbax()
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(dict(record)))
        with self._telling("write"):
            self._manager.save(step, args=items)

    def restore(self, step: int, abstract: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The state, laid out as the shardings of `abstract` say, and its record.

        Raises CheckpointError where the stored state has other names or shapes.
        """
        with self._telling("read"):
            metadata = self._manager.item_metadata(step)
            stored = metadata.state if metadata is not None else None
            if stored is None:
                raise CheckpointError(f"{self.folder / str(step)}: damaged metadata, or files are missing.")
            check_names(
                self.folder / str(step),
                flatten_dict(dict(stored), sep="/"),
                flatten_dict(dict(abstract), sep="/"),
                "Was this run started with another model, stage or optimizer? Use another workdir, or remove this one.",
            )
            ocp = _orbax()
            args = ocp.args.Composite(state=ocp.args.StandardRestore(dict(abstract)), record=ocp.args.JsonRestore())
            found = self._manager.restore(step, args=args)
        return found.state, found.record

    def wait(self) -> None:
        """Return when what was started is written."""
        with self._telling("write"):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, and let go of the folder."""
        self.wait()
        self._manager.close()

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except CheckpointError:
            raise
        except (OSError, ValueError, RuntimeError) as error:
            cause = str(error).splitlines()[0][:300]
            raise CheckpointError(
                f"{self.folder}: cannot {what} a checkpoint ({cause}). Whole checkpoints there are kept; give the "
                "folder room and rights, then start the same command again."
            ) from error
