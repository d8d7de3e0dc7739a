"""A video, encoded once: its visual tokens with their times, in memory and on disk.

Source: ours. On disk an index is a directory: header.json and safetensors segments of whole groups. The header says
"open" until every segment is there; an open index is never taken for a complete one.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

FORMAT = "vxlpro_jax.video_index"
VERSION = 1
GROUPS_PER_SEGMENT = 1024
HEADER = "header.json"
_HEADER_TYPES: dict[str, type | tuple[type, ...]] = {
    "format": str,
    "version": int,
    "state": str,
    "fingerprint": str,
    "kind": str,
    "source": dict,
    "sampling": dict,
    "end_s": (int, float),
    "num_groups": int,
    "segments": list,
}


@dataclass(frozen=True)
class VideoIndex:
    """tokens [G, P, D]: what the encoder made of each group. group_times_s [G]: time of each group's first frame.

    frame_times_s, frame_indices [T]: of the frames that were encoded, in order. end_s: where the last group ends. kind:
    "video" or "picture". fingerprint: of the encoder (tower, DTS, projector, their switches and preprocessing) that
    made the tokens; an index serves any LLM behind the same encoder. sampling: how frames were chosen, with the spacing
    in seconds. source: path, bytes and modification time. lost: indices of frames that damage took away. timings:
    seconds of decoding and encoding (not stored).
    """

    tokens: np.ndarray
    group_times_s: np.ndarray
    frame_times_s: np.ndarray
    frame_indices: np.ndarray
    end_s: float
    kind: str
    fingerprint: str
    sampling: Mapping[str, Any]
    source: Mapping[str, Any]
    lost: tuple[int, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)

    def save(self, path: str | Path) -> Path:
        """Writes the directory `path`, whole or not at all. Raises FileExistsError when it exists, OSError when it
        cannot be written."""
        target = Path(path)
        _refuse_existing(target)
        partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
        try:
            partial.mkdir(parents=True)
            self._write(partial)
            _refuse_existing(target)
            partial.rename(target)
        except SafetensorError as error:
            raise OSError(f"{target} cannot be written ({error})") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return target

    def _write(self, folder: Path) -> None:
        starts = range(0, len(self.tokens), GROUPS_PER_SEGMENT)
        header: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "state": "open",
            "fingerprint": self.fingerprint,
            "kind": self.kind,
            "source": dict(self.source),
            "sampling": dict(self.sampling),
            "end_s": self.end_s,
            "num_groups": len(self.tokens),
            "segments": [f"segment-{number:05d}.safetensors" for number in range(len(starts))],
        }
        _write_json(folder / HEADER, header)
        for name, start in zip(header["segments"], starts, strict=True):
            save_file(self._segment(start), folder / name)
        _write_json(folder / HEADER, header | {"state": "complete"})

    def _segment(self, start: int) -> dict[str, np.ndarray]:
        groups = slice(start, start + GROUPS_PER_SEGMENT)
        segment = {"tokens": self.tokens[groups], "group_times_s": self.group_times_s[groups]}
        if start == 0:
            segment |= {
                "frame_times_s": self.frame_times_s,
                "frame_indices": self.frame_indices,
                "lost": np.array(self.lost, np.int64),
            }
        return {name: np.ascontiguousarray(value) for name, value in segment.items()}

    @classmethod
    def load(cls, path: str | Path) -> "VideoIndex":
        """Reads a directory that `save` wrote. Raises ValueError when it is no complete index, or a damaged one."""
        folder = Path(path)
        header = _read_header(folder)
        try:
            segments = [load_file(_inside(folder, name)) for name in header["segments"]]
            tokens = np.concatenate([segment["tokens"] for segment in segments])
            times = np.concatenate([segment["group_times_s"] for segment in segments])
            first = segments[0]
            frame_times, frame_indices, lost = (first[name] for name in ("frame_times_s", "frame_indices", "lost"))
        except (OSError, SafetensorError, KeyError, IndexError, ValueError) as error:
            raise ValueError(f"{folder}: the index is damaged ({error}); index the video again") from error
        if tokens.ndim != 3 or times.ndim != 1 or not len(tokens) == len(times) == header["num_groups"]:
            raise ValueError(
                f"{folder}: tokens {list(tokens.shape)} and {times.size} times found, the header says "
                f"{header['num_groups']} groups: the index is damaged; index the video again"
            )
        return cls(
            tokens=tokens,
            group_times_s=times,
            frame_times_s=frame_times,
            frame_indices=frame_indices,
            end_s=header["end_s"],
            kind=header["kind"],
            fingerprint=header["fingerprint"],
            sampling=header["sampling"],
            source=header["source"],
            lost=tuple(int(index) for index in lost),
        )


def is_index(path: str | Path) -> bool:
    """Whether a path is a directory with an index's header."""
    return (Path(path) / HEADER).is_file()


def describe_source(path: str | Path) -> dict[str, Any]:
    """Path, bytes and modification time of a video, as the header keeps them."""
    stat = Path(path).stat()
    return {"path": str(path), "bytes": stat.st_size, "modified_s": stat.st_mtime}


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(values, indent=1))
    temporary.replace(path)


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise FileExistsError(f"{target} exists: remove it or choose another name")


def _inside(folder: Path, name: Any) -> Path:
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise ValueError(f"segment {name!r} is not a file name")
    return folder / name


def _read_header(folder: Path) -> dict[str, Any]:
    try:
        header = json.loads((folder / HEADER).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} is no video index ({error}): make one with `vxlpro index VIDEO -o {folder}`"
        ) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{folder / HEADER} is not the header of a video index")
    wrong = [key for key, kind in _HEADER_TYPES.items() if not isinstance(header.get(key), kind)]
    if not wrong and not isinstance(header["sampling"].get("spacing_s"), (int, float)):
        wrong = ["sampling.spacing_s"]
    if wrong:
        raise ValueError(f"{folder / HEADER}: keys {wrong} are missing or of a wrong kind: index the video again")
    if header["version"] != VERSION:
        raise ValueError(f"{folder} has index version {header['version']}, this program reads {VERSION}: index again")
    if header["state"] != "complete":
        raise ValueError(f"{folder} is unfinished (state {header['state']!r}): index the video again")
    return header
