"""The files of a video index: a header, and segments of whole groups; each is written whole or not at all.

Source: ours. The header says "open" until every segment is there.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

FORMAT = "vxlpro_jax.video_index"
VERSION = 2
GROUPS_PER_SEGMENT = 64  # 38 MB in bf16 at 3B: what a kill can cost at most, and few enough files for days of video
HEADER = "header.json"
PART = ".part-"  # begins the name of a segment that is being written
FRAME_ARRAYS = ("group_times_s", "frame_times_s", "frame_indices", "lost")
_HEADER_TYPES: dict[str, type | tuple[type, ...]] = {
    "format": str,
    "version": int,
    "state": str,
    "fingerprint": str,
    "kind": str,
    "source": dict,
    "sampling": dict,
    "groups_per_batch": int,
    "end_s": (int, float),
    "num_groups": int,
    "segments": list,
    "lost_at_end": list,
}


def segment_len(groups_per_batch: int) -> int:
    """Groups of a segment: whole batches, so that one who goes on after it forms the batches that he would have
    formed."""
    batch = max(1, groups_per_batch)
    return batch * -(-GROUPS_PER_SEGMENT // batch)


def segment_name(number: int) -> str:
    return f"segment-{number:05d}.safetensors"


def write_segment(folder: Path, number: int, tokens: np.ndarray, times: Sequence[np.ndarray]) -> None:
    """Writes one segment, whole or not at all. times: group_times_s [G], frame_times_s [n], frame_indices [n], lost."""
    arrays = {"tokens": tokens, **dict(zip(FRAME_ARRAYS, times, strict=True))}
    part = folder / f"{PART}{segment_name(number)}"
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, part)
    _name(part, folder / segment_name(number))


def read_frames(folder: Path, name: Any) -> list[np.ndarray]:
    """A segment's FRAME_ARRAYS."""
    with safe_open(_inside(folder, name), "np") as file:
        return [file.get_tensor(array) for array in FRAME_ARRAYS]


def read_tokens(folder: Path, names: Sequence[Any]) -> np.ndarray:
    """The tokens [G, P, D] of segments one after the other; besides them one segment is held at a time."""
    lengths = []
    for name in names:
        with safe_open(_inside(folder, name), "np") as file:
            lengths.append(file.get_slice("tokens").get_shape()[0])
    tokens, start = np.empty(0), 0
    for name, length in zip(names, lengths, strict=True):
        with safe_open(_inside(folder, name), "np") as file:
            segment = file.get_tensor("tokens")
        if start == 0:
            tokens = np.empty((sum(lengths), *segment.shape[1:]), segment.dtype)
        if segment.shape[1:] != tokens.shape[1:] or segment.dtype != tokens.dtype:
            raise ValueError(f"{name} holds {segment.dtype} {list(segment.shape)}, others {tokens.dtype}")
        tokens[start : start + length] = segment
        start += length
    return tokens


def open_header(
    fingerprint: str, kind: str, source: Mapping[str, Any], sampling: Mapping[str, Any], groups_per_batch: int
) -> dict[str, Any]:
    """The header of an index that is being written."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "state": "open",
        "fingerprint": fingerprint,
        "kind": kind,
        "source": dict(source),
        "sampling": dict(sampling),
        "groups_per_batch": groups_per_batch,
        "end_s": 0.0,
        "num_groups": 0,
        "segments": [],
        "lost_at_end": [],
    }


def complete_header(
    header: Mapping[str, Any], num_groups: int, num_segments: int, end_s: float, lost_at_end: Sequence[int]
) -> dict[str, Any]:
    """The same, when every segment is there. lost_at_end: frames that damage took away after the last good one."""
    names = [segment_name(number) for number in range(num_segments)]
    counts = {"num_groups": num_groups, "segments": names, "lost_at_end": list(lost_at_end)}
    return dict(header) | {"state": "complete", "end_s": end_s} | counts


def write_header(folder: Path, values: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    part = folder / f"{PART}{HEADER}"
    part.write_text(json.dumps(values, indent=1))
    _name(part, folder / HEADER)


def _name(part: Path, path: Path) -> None:
    """Gives a written file its name, once it is on disk: a power cut leaves no empty file of that name."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)


def _inside(folder: Path, name: Any) -> Path:
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise ValueError(f"segment {name!r} is not a file name")
    return folder / name


def read_header(folder: Path) -> dict[str, Any]:
    """The header of an index, open or complete. Raises ValueError when there is none of this version."""
    try:
        header = json.loads((folder / HEADER).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} is no video index ({error}): make one with `vxlpro index VIDEO -o {folder}`"
        ) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{folder / HEADER} is not the header of a video index")
    if header.get("version") != VERSION:
        raise ValueError(
            f"{folder} has index version {header.get('version')}, this program reads {VERSION}: index the video again"
        )
    wrong = [key for key, kind in _HEADER_TYPES.items() if not isinstance(header.get(key), kind)]
    if not wrong and not isinstance(header["sampling"].get("spacing_s"), (int, float)):
        wrong = ["sampling.spacing_s"]
    if wrong:
        raise ValueError(f"{folder / HEADER}: keys {wrong} are missing or of a wrong kind: index the video again")
    return header
