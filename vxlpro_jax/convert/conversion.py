"""Any checkpoint that we know in, an Orbax folder or the released PyTorch layout out; and any of them into memory.

Source: ours.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vxlpro_jax.checkpoint import (
    CheckpointError,
    check_names,
    read_groups,
    read_some,
    restore_params,
    save_params,
    stored_params,
)
from vxlpro_jax.convert.atomic_folder import new_folder, refuse_existing
from vxlpro_jax.convert.errors import ConversionError
from vxlpro_jax.convert.jax_to_torch import check_leaves, write_config, write_released
from vxlpro_jax.convert.released_config import STORAGE_BLOCK, config_from_released
from vxlpro_jax.convert.safetensors_io import read_json
from vxlpro_jax.convert.sources import CONFIG_NAME, check_tokenizer, copy_tokenizer, kind_of, resolve_source
from vxlpro_jax.convert.stock_parts import compose_config, plan_parts
from vxlpro_jax.convert.torch_to_jax import WeightPlan, leaf_shapes, leaf_types, plan_released, read_leaf
from vxlpro_jax.models.presets import VideoXLProConfig
from vxlpro_jax.models.video_xl_pro import abstract_params

Layout = Literal["orbax", "torch"]
Name = str | Path
SHARD_BYTES = 2 * 10**9
DTYPE_NAMES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True)
class _Source:
    """A checkpoint that was checked but not read.

    types: stored type of every leaf by its path. read_leaf: reads one, cast if a type is given; made for going through
    the paths in order. read: reads all, nested. tokenizer_folder: holds the tokenizer files, if there are any.
    released, storage: see jax_to_torch.write_released.
    """

    config: VideoXLProConfig
    types: Mapping[str, np.dtype]
    read_leaf: Callable[[str, np.dtype | None], np.ndarray]
    read: Callable[[np.dtype | None], dict[str, Any]]
    tokenizer_folder: Path
    released: Mapping[str, Any]
    storage: Mapping[str, Any]

    def types_as(self, dtype: np.dtype | None) -> dict[str, np.dtype]:
        return {path: dtype or kind for path, kind in self.types.items()}

    def num_bytes(self, dtype: np.dtype | None) -> int:
        shapes = leaf_shapes(self.config)
        return sum(math.prod(shapes[path]) * kind.itemsize for path, kind in self.types_as(dtype).items())


def convert(
    src: Name | Sequence[Name],
    dst: Name,
    to: Layout = "orbax",
    *,
    seed: int = 0,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Convert a checkpoint; the result is complete at `dst`, or nothing is there.

    Args:
        src: a folder or hub id of the released layout or of ours; or two, a stock Qwen2.5 and a stock SigLIP in any
            order.
        dst: a folder that does not exist.
        to: "orbax", or "torch" for the released layout.
        seed: decides the parts that two stock checkpoints leave open.
        dtype: "float32", "float16" or "bfloat16" to cast; None keeps each tensor's type and thereby every bit.
        shard_bytes: largest shard of the released layout.

    Returns:
        The path of `dst`.

    Raises:
        ConversionError: naming the keys, files or fields that are wrong.
    """
    target, kind = Path(dst), _dtype(dtype)
    if to not in ("orbax", "torch"):
        raise ConversionError(f"to = {to!r}; accepted: 'orbax', 'torch'.")
    refuse_existing(target)
    source = _open_source(src, seed)
    with new_folder(target, source.num_bytes(kind)) as folder:
        if to == "torch":
            types = source.types_as(kind)

            def read(path: str) -> np.ndarray:
                return source.read_leaf(path, types[path])

            write_released(folder, source.config, read, types, source.released, source.storage, shard_bytes)
        else:
            _write_orbax(folder, source.config, source.read(kind), source.released, source.storage)
        copy_tokenizer(source.tokenizer_folder, folder)
    return target


def load_params(
    src: Name | Sequence[Name], *, seed: int = 0, dtype: str | None = None
) -> tuple[VideoXLProConfig, dict[str, Any]]:
    """Read a checkpoint of any kind into memory: its config and a nested dict of numpy arrays.

    Arguments and errors are those of `convert`. `jax.device_put` takes most of the arrays over without a copy on CPU.
    """
    source = _open_source(src, seed)
    return source.config, source.read(_dtype(dtype))


def load_config(src: Name | Sequence[Name]) -> VideoXLProConfig:
    """Return the config of a checkpoint of any kind; raises ConversionError as `convert`, but looks at no weights."""
    folders = _folders(src)
    if len(folders) == 2:
        llm, vision = _tell_parts_apart(folders)
        return compose_config(read_json(llm / CONFIG_NAME), llm, vision)
    _complete_kind(folders[0])
    return config_from_released(read_json(folders[0] / CONFIG_NAME), str(folders[0] / CONFIG_NAME))


def save_params_as(
    dst: Name,
    config: VideoXLProConfig,
    params: Mapping[str, Any],
    to: Layout = "torch",
    *,
    tokenizer_folder: Name | None = None,
    released: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write parameters that are in memory as a new checkpoint, e.g. after training.

    Args:
        dst, to, dtype, shard_bytes: as `convert`.
        config: of the model that the parameters belong to.
        params: nested dict of arrays.
        tokenizer_folder: where tokenizer files are copied from.
        released: fields of config.json to set beside those that the config decides, e.g. eos_token_id.

    Raises:
        ConversionError: parameters that do not belong to the config, a tokenizer too large for it, or no place to
            write.
    """
    target, kind = Path(dst), _dtype(dtype)
    leaves = flatten_dict(dict(params), sep="/")
    check_leaves(leaves, config)
    if tokenizer_folder is not None:
        check_tokenizer(Path(tokenizer_folder), config.llm.vocab_size)
    num_bytes = sum(leaf.size * (kind or leaf.dtype).itemsize for leaf in leaves.values())
    with new_folder(target, num_bytes) as folder:
        if to == "torch":
            types = {path: kind or np.dtype(leaf.dtype) for path, leaf in leaves.items()}
            write_released(folder, config, leaves.__getitem__, types, released or {}, {}, shard_bytes)
        else:
            cast = params if kind is None else jax.tree.map(lambda leaf: leaf.astype(kind), dict(params))
            _write_orbax(folder, config, cast, released or {}, {})
        if tokenizer_folder is not None:
            copy_tokenizer(Path(tokenizer_folder), folder)
    return target


def _write_orbax(
    folder: Path, config: VideoXLProConfig, params: Any, released: Mapping[str, Any], storage: Mapping[str, Any]
) -> None:
    save_params(folder, params)
    write_config(folder, config, released, storage, np.dtype(params["llm"]["embed_tokens"]["embedding"].dtype))


def _dtype(name: str | None) -> np.dtype | None:
    if name is None:
        return None
    if name not in DTYPE_NAMES:
        raise ConversionError(f"dtype = {name!r}; accepted: {', '.join(DTYPE_NAMES)}.")
    return DTYPE_NAMES[name]


def _folders(src: Name | Sequence[Name]) -> list[Path]:
    names = [src] if isinstance(src, str | Path) else list(src)
    if len(names) not in (1, 2):
        raise ConversionError(f"{len(names)} sources; one checkpoint, or a Qwen2.5 and a SigLIP folder are needed.")
    return [resolve_source(name) for name in names]


def _open_source(src: Name | Sequence[Name], seed: int) -> _Source:
    """Resolve and check a source of any kind, before any weights are read."""
    folders = _folders(src)
    if len(folders) == 2:
        llm, vision = _tell_parts_apart(folders)
        source = _from_plan(plan_parts(llm, vision, seed), llm)
    elif _complete_kind(folders[0]) == "released":
        source = _from_plan(plan_released(folders[0]), folders[0])
    else:
        source = _open_orbax(folders[0])
    check_tokenizer(source.tokenizer_folder, source.config.llm.vocab_size)
    return source


def _from_plan(plan: WeightPlan, tokenizer_folder: Path) -> _Source:
    types = leaf_types(plan)

    def read_one(path: str, dtype: np.dtype | None) -> np.ndarray:
        return read_leaf(plan, path, dtype)

    def read(dtype: np.dtype | None) -> dict[str, Any]:
        return unflatten_dict({path: read_leaf(plan, path, dtype) for path in types}, sep="/")

    return _Source(plan.config, types, read_one, read, tokenizer_folder, plan.released, plan.storage)


def _open_orbax(folder: Path) -> _Source:
    values = read_json(folder / CONFIG_NAME)
    config = config_from_released(values, str(folder / CONFIG_NAME))
    abstract = abstract_params(config)
    with _as_conversion_error():
        stored = dict(sorted(stored_params(folder).items()))
        check_names(folder, stored, flatten_dict(abstract, sep="/"))
    groups = {path: group for group in read_groups(stored) for path in group}
    held: dict[str, Any] = {}

    def read_one(path: str, dtype: np.dtype | None) -> np.ndarray:
        if path not in held:
            held.clear()
            with _as_conversion_error():
                held.update(read_some(folder, {other: stored[other] for other in groups[path]}))
        return held[path].astype(dtype or held[path].dtype, copy=False)

    def read(dtype: np.dtype | None) -> dict[str, Any]:
        with _as_conversion_error():
            return restore_params(folder, abstract, dtype)

    released = {key: value for key, value in values.items() if key != STORAGE_BLOCK}
    types = {path: np.dtype(leaf.dtype) for path, leaf in stored.items()}
    return _Source(config, types, read_one, read, folder, released, values.get(STORAGE_BLOCK, {}))


@contextmanager
def _as_conversion_error() -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise ConversionError(str(error)) from error


def _complete_kind(folder: Path) -> Literal["released", "orbax"]:
    """Return the kind of a folder that is a whole model; a stock part raises ConversionError."""
    kind = kind_of(folder)
    if kind == "qwen2" or kind == "siglip":
        other = "siglip" if kind == "qwen2" else "qwen2"
        raise ConversionError(f"{folder}: model_type {kind} is a part of the model; name a {other} folder beside it.")
    return kind


def _tell_parts_apart(folders: list[Path]) -> tuple[Path, Path]:
    """Return the language model's folder and the tower's, given in any order."""
    kinds = {kind_of(folder): folder for folder in folders}
    if set(kinds) != {"qwen2", "siglip"}:
        found = ", ".join(f"{folder} ({kind_of(folder)})" for folder in folders)
        raise ConversionError(f"two sources have to be a qwen2 and a siglip folder, these are {found}.")
    return kinds["qwen2"], kinds["siglip"]
