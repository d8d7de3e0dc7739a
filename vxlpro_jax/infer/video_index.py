"""A video, encoded once: its visual tokens with their times, in memory and on disk.

Source: ours. On disk an index is a directory: header.json and safetensors segments of whole groups, each with the times
and numbers of its frames (infer/index_files.py). infer/index_writer.py writes one while its video is encoded; an open
index is never taken for a complete one.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from vxlpro_jax.data.image_folder import images_in
from vxlpro_jax.infer.index_files import (
    HEADER,
    complete_header,
    open_header,
    read_frames,
    read_header,
    read_tokens,
    segment_len,
    write_header,
    write_segment,
)


@dataclass(frozen=True)
class VideoIndex:
    """tokens [G, P, D]: what the encoder made of each group. group_times_s [G]: time of each group's first frame.

    frame_times_s, frame_indices [T]: of the frames that were encoded, in order. end_s: where the last group ends. kind:
    "video" or "picture". fingerprint: of the encoder (tower, DTS, projector, their switches and preprocessing) that
    made the tokens; an index serves any LLM behind the same encoder. sampling: how frames were chosen, with the spacing
    in seconds. source: path, bytes and modification time. lost: indices of frames that damage took away. timings:
    seconds of decoding and encoding (not stored). groups_per_batch: groups that were encoded at once, to which one who
    continues the index keeps; 0: unknown.
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
    groups_per_batch: int = 0

    def save(self, path: str | Path) -> Path:
        """Writes the directory `path`, whole or not at all. Raises FileExistsError when it exists, OSError when it
        cannot be written."""
        target = Path(path)
        refuse_existing(target)
        partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
        try:
            partial.mkdir(parents=True)
            self._write(partial)
            refuse_existing(target)
            partial.rename(target)
        except SafetensorError as error:
            raise OSError(f"{target} cannot be written ({error})") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return target

    def _write(self, folder: Path) -> None:
        length = segment_len(self.groups_per_batch)
        title = open_header(self.fingerprint, self.kind, self.source, self.sampling, self.groups_per_batch)
        write_header(folder, title)
        # Times of frames never fall, so a group's time says which frame it begins with.
        bounds = np.searchsorted(self.frame_times_s, self.group_times_s[::length]).tolist()
        lost = np.array(self.lost, np.int64)
        starts = range(0, len(self.tokens), length)
        for number, start in enumerate(starts):
            groups = slice(start, start + length)
            frames = slice(bounds[number], bounds[number + 1] if number + 1 < len(bounds) else None)
            indices = self.frame_indices[frames]
            before = lost < (indices[-1] if len(indices) else 0)
            times = (self.group_times_s[groups], self.frame_times_s[frames], indices, lost[before])
            write_segment(folder, number, self.tokens[groups], times)
            lost = lost[~before]
        write_header(folder, complete_header(title, len(self.tokens), len(starts), self.end_s, lost.tolist()))

    @classmethod
    def load(cls, path: str | Path) -> "VideoIndex":
        """Reads a directory that `save` or IndexWriter wrote. Raises ValueError when it is no complete index, or a
        damaged one."""
        folder = Path(path)
        header = read_header(folder)
        if header["state"] != "complete":
            raise ValueError(
                f"{folder} is unfinished (state {header['state']!r}): the command that began it, given again, goes on"
            )
        try:
            segments = [read_frames(folder, name) for name in header["segments"]]
            group_times, frame_times, frame_indices, lost = map(np.concatenate, zip(*segments, strict=True))
            tokens = read_tokens(folder, header["segments"])
        except (OSError, SafetensorError, KeyError, IndexError, ValueError) as error:
            raise ValueError(f"{folder}: the index is damaged ({error}); index the video again") from error
        if tokens.ndim != 3 or group_times.ndim != 1 or not len(tokens) == len(group_times) == header["num_groups"]:
            raise ValueError(
                f"{folder}: tokens {list(tokens.shape)} and {group_times.size} times found, the header says "
                f"{header['num_groups']} groups: the index is damaged; index the video again"
            )
        return cls(
            tokens=tokens,
            group_times_s=group_times,
            frame_times_s=frame_times,
            frame_indices=frame_indices,
            end_s=header["end_s"],
            kind=header["kind"],
            fingerprint=header["fingerprint"],
            sampling=header["sampling"],
            source=header["source"],
            lost=(*lost.tolist(), *header["lost_at_end"]),
            groups_per_batch=header["groups_per_batch"],
        )


def is_index(path: str | Path) -> bool:
    """Whether a path is a directory with an index's header."""
    return (Path(path) / HEADER).is_file()


def describe_source(source: str | Path | Sequence[str | Path], name: str | None = None) -> dict[str, Any]:
    """Path (or the name given), bytes and modification time of a video, as the header keeps them: of a folder or list
    of images their sum and the newest."""
    if isinstance(source, str | Path):
        files = images_in(Path(source)) if Path(source).is_dir() else [Path(source)]
    else:
        files = [Path(item) for item in source]
    stats = [file.stat() for file in files]
    newest_s = max((stat.st_mtime for stat in stats), default=0.0)
    return {"path": name or str(source), "bytes": sum(stat.st_size for stat in stats), "modified_s": newest_s}


def refuse_existing(target: Path) -> None:
    """Raises FileExistsError where something, be it a dangling link, has the name."""
    if os.path.lexists(target):
        raise FileExistsError(f"{target} exists: remove it or choose another name")
