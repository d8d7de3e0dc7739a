"""Reading and writing folders of safetensors shards, one tensor in memory at a time.

Source: SPEC 10 (shards with an index; fp16, bf16 or fp32 storage). The safetensors library checks each
header; bytes are then read and written here, because the library would hold a whole shard, mapped or copied.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from vxlpro_jax.convert.errors import ConversionError, name_some

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
DTYPES: dict[str, np.dtype] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_CHUNK_BYTES = 2**21  # small enough that transposing into place stays in the cache
_LENGTH_BYTES = 8  # a safetensors file starts with the length of its header, little endian
_SHARD_NAME = re.compile(r".*-(\d{5})-of-(\d{5})\.safetensors")


class StoredTensor(NamedTuple):
    """A tensor in a file: where its bytes are, and what they mean."""

    file: Path
    start: int  # offset in the file
    num_bytes: int
    dtype: str  # as safetensors names it
    shape: tuple[int, ...]


def read_json(path: Path) -> dict:
    """Return the object in a JSON file; raises ConversionError naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConversionError(f"{path}: cannot be read as JSON ({error}).") from error
    if not isinstance(value, dict):
        raise ConversionError(f"{path}: holds a {type(value).__name__}, an object is needed.")
    return value


def scan_folder(folder: Path) -> dict[str, StoredTensor]:
    """Find every tensor of a folder by its key, from the headers of its shards alone.

    Raises:
        ConversionError: no safetensors, a shard that is missing or damaged, a key in two shards or in another shard
            than the index says, an index that points out of the folder.
    """
    weight_map = _read_weight_map(folder)
    shards = sorted(set(weight_map.values())) if weight_map else _list_shards(folder)
    if missing := [name for name in shards if not (folder / name).is_file()]:
        wanted = [key for key, name in weight_map.items() if name in missing]
        keys = f", which should hold {name_some(wanted, 3)}" if wanted else ""
        raise ConversionError(f"{folder}: missing shards: {name_some(missing)}{keys}.")
    tensors: dict[str, StoredTensor] = {}
    for name in shards:
        for key, tensor in read_header(folder / name).items():
            if key in tensors:
                raise ConversionError(f"{folder}: key {key} is in two shards, {tensors[key].file.name} and {name}.")
            tensors[key] = tensor
    if weight_map:
        _check_weight_map(folder, weight_map, tensors)
    return tensors


def _read_weight_map(folder: Path) -> dict[str, str]:
    """Return key to shard name of the index, empty where there is no index; names stay inside the folder."""
    index = folder / INDEX_NAME
    if not index.is_file():
        return {}
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ConversionError(f"{index}: needs a 'weight_map' from keys to shard names.")
    if not weight_map:
        raise ConversionError(f"{index}: its weight_map is empty.")
    for key, name in weight_map.items():
        if name != os.path.basename(name) or not name.endswith(".safetensors") or "\\" in name:
            raise ConversionError(
                f"{index}: key {key} points to {name!r}; a *.safetensors file of the same folder is needed."
            )
    return weight_map


def _list_shards(folder: Path) -> list[str]:
    """Return the shards of a folder without index; numbered shards must be complete."""
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    if SINGLE_NAME in names:
        return [SINGLE_NAME]
    if not names:
        pickled = sorted(path.name for path in folder.glob("*.bin")) + sorted(
            path.name for path in folder.glob("*.pt*")
        )
        hint = f" {name_some(pickled)} can run code when opened; save it as safetensors." if pickled else ""
        raise ConversionError(f"{folder}: no *.safetensors file.{hint}")
    for name in names:
        if numbered := _SHARD_NAME.fullmatch(name):
            count = int(numbered[2])
            stem = name[: -len("-00001-of-00001.safetensors")]
            every = {f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)}
            if missing := every - set(names):
                raise ConversionError(f"{folder}: missing shards: {name_some(missing)}.")
    return names


def _check_weight_map(folder: Path, weight_map: Mapping[str, str], tensors: Mapping[str, StoredTensor]) -> None:
    if absent := weight_map.keys() - tensors.keys():
        raise ConversionError(f"{folder}: keys of the index that no shard holds: {name_some(absent)}.")
    if surplus := tensors.keys() - weight_map.keys():
        raise ConversionError(f"{folder}: keys in shards that the index lacks: {name_some(surplus)}.")
    if moved := [key for key, name in weight_map.items() if tensors[key].file.name != name]:
        raise ConversionError(f"{folder}: keys in another shard than the index says: {name_some(moved)}.")


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one file by key; the library checks offsets, lengths and the header's size.

    Raises:
        ConversionError: the file is truncated, damaged or no safetensors file.
    """
    try:
        with safe_open(path, framework="numpy"):
            pass
        with open(path, "rb") as file:
            header_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            header = json.loads(file.read(header_bytes))
    except (SafetensorError, OSError, ValueError) as error:
        raise ConversionError(f"{path}: truncated, damaged or no safetensors file ({error}).") from error
    data_start = _LENGTH_BYTES + header_bytes
    header.pop("__metadata__", None)
    return {
        key: StoredTensor(
            path,
            data_start + entry["data_offsets"][0],
            entry["data_offsets"][1] - entry["data_offsets"][0],
            entry["dtype"],
            tuple(entry["shape"]),
        )
        for key, entry in header.items()
    }


def read_into(tensor: StoredTensor, out: np.ndarray) -> None:
    """Read one tensor into an array of its shape, a chunk of rows at a time; the array's type and strides are free.

    Raises:
        ConversionError: the file ends early.
    """
    rows = tensor.shape[0] if tensor.shape else 1
    out = out.reshape(tensor.shape or (1,))
    row_bytes = tensor.num_bytes // rows if rows else 0
    with open(tensor.file, "rb") as file:
        file.seek(tensor.start)
        for start, stop in _row_chunks(rows, row_bytes):
            data = file.read((stop - start) * row_bytes)
            if len(data) != (stop - start) * row_bytes:
                raise ConversionError(f"{tensor.file}: ends before its header says; the file is truncated.")
            out[start:stop] = np.frombuffer(data, DTYPES[tensor.dtype]).reshape(stop - start, *tensor.shape[1:])


def _row_chunks(rows: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Cut rows into ranges of about _CHUNK_BYTES, so that no tensor is ever held twice."""
    step = max(1, _CHUNK_BYTES // max(1, row_bytes))
    return ((start, min(start + step, rows)) for start in range(0, rows, step))


def same_bytes(one: StoredTensor, other: StoredTensor) -> bool:
    """Tell whether two tensors hold the same bytes, reading both in chunks."""
    if one.num_bytes != other.num_bytes:
        return False
    with open(one.file, "rb") as left, open(other.file, "rb") as right:
        left.seek(one.start)
        right.seek(other.start)
        for start, stop in _row_chunks(one.num_bytes, 1):
            count = stop - start
            if left.read(count) != right.read(count):
                return False
    return True


def plan_shards(sizes: Mapping[str, int], shard_bytes: int) -> list[list[str]]:
    """Cut keys, in their order, into shards of at most `shard_bytes` (a larger tensor gets a shard of its own)."""
    shards: list[list[str]] = [[]]
    filled = 0
    for key, num_bytes in sizes.items():
        if shards[-1] and filled + num_bytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(key)
        filled += num_bytes
    return shards


def write_folder(
    folder: Path,
    entries: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    produce: Callable[[str], np.ndarray],
    shard_bytes: int,
) -> None:
    """Write shards and their index, asking for one tensor at a time.

    Args:
        folder: an existing folder.
        entries: shape and dtype of every key, in the order of the files.
        produce: returns the tensor of a key in that shape; it is cast while it is written.
        shard_bytes: a shard's largest size; one shard alone is named model.safetensors and has no index.
    """
    sizes = {key: int(np.prod(shape)) * dtype.itemsize for key, (shape, dtype) in entries.items()}
    shards = plan_shards(sizes, shard_bytes)
    weight_map: dict[str, str] = {}
    for number, keys in enumerate(shards, start=1):
        name = SINGLE_NAME if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(folder / name, {key: entries[key] for key in keys}, ((key, produce(key)) for key in keys))
        weight_map |= dict.fromkeys(keys, name)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_file(
    path: Path,
    entries: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    tensors: Iterable[tuple[str, np.ndarray]],
) -> None:
    """Write one safetensors file from tensors that come one by one, in the order of `entries`."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for key, (shape, dtype) in entries.items():
        end = offset + int(np.prod(shape)) * dtype.itemsize
        header[key] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts at a multiple of 8, as the format asks
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(_LENGTH_BYTES, "little"))
        file.write(text)
        for key, tensor in tensors:
            shape, dtype = entries[key]
            if tensor.shape != shape:
                raise ConversionError(f"{key}: {list(tensor.shape)} was to be written, {list(shape)} was announced.")
            for start, stop in _row_chunks(shape[0], tensor.nbytes // shape[0]):
                rows = np.ascontiguousarray(tensor[start:stop], dtype)
                file.write(rows.reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
