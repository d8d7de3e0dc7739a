"""An index on its way: gathered in memory, or written to disk while its video is encoded.

Source: ours. On disk whole segments appear one by one; who was stopped goes on after the last of them, and an index
whose video has grown is continued. Both keep whole batches only, so that every batch holds what it would have held.
"""

import fcntl
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from safetensors import SafetensorError

from vxlpro_jax.infer.index_files import (
    PART,
    complete_header,
    read_frames,
    read_header,
    read_tokens,
    segment_len,
    segment_name,
    write_header,
    write_segment,
)
from vxlpro_jax.infer.video_index import VideoIndex, is_index, refuse_existing


class EncodedBatch(NamedTuple):
    """What the encoder made of a batch: tokens [G, P, D], times and numbers of its groups and frames, and the frames
    that damage took away before its last one (and after the batch before)."""

    tokens: np.ndarray
    group_times_s: np.ndarray
    frame_times_s: np.ndarray
    frame_indices: np.ndarray
    lost: Sequence[int]


class KeptFrames(NamedTuple):
    """What need not be encoded again. num_groups: whole groups of these frames; lost: frames that damage took away
    among them."""

    num_groups: int
    frame_times_s: np.ndarray
    frame_indices: np.ndarray
    lost: np.ndarray


class IndexSink(Protocol):
    """Where encoded batches go, in order."""

    kept: KeptFrames

    def add(self, batch: EncodedBatch) -> None: ...

    def finish(self, lost: Sequence[int], end_s: float, timings: Mapping[str, float]) -> VideoIndex:
        """The index, when all is added. lost: frames that damage took away after the last batch's end."""
        ...


NOTHING_KEPT = KeptFrames(0, np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))


class IndexInMemory:
    """Tokens gathered in place: memory holds them once. header: see open_header; num_groups: at most so many."""

    kept = NOTHING_KEPT

    def __init__(self, header: Mapping[str, Any], num_groups: int):
        self._header, self._max_groups = header, num_groups
        self._tokens = np.zeros((0, 0, 0))
        self._num_groups = 0
        self._times: list[Sequence[np.ndarray]] = []

    def add(self, batch: EncodedBatch) -> None:
        if not self._num_groups:
            self._tokens = np.empty((self._max_groups, *batch.tokens.shape[1:]), batch.tokens.dtype)
        self._tokens[self._num_groups : self._num_groups + len(batch.tokens)] = batch.tokens
        self._num_groups += len(batch.tokens)
        self._times.append([*batch[1:4], np.array(batch.lost, np.int64)])

    def finish(self, lost: Sequence[int], end_s: float, timings: Mapping[str, float]) -> VideoIndex:
        group_times, frame_times, frame_indices, earlier = map(np.concatenate, zip(*self._times, strict=True))
        return VideoIndex(
            tokens=self._tokens[: self._num_groups],
            group_times_s=group_times,
            frame_times_s=frame_times,
            frame_indices=frame_indices,
            end_s=end_s,
            lost=(*earlier.tolist(), *lost),
            timings=timings,
            **{name: self._header[name] for name in ("kind", "fingerprint", "sampling", "source", "groups_per_batch")},
        )


class IndexWriter:
    """An index's folder while it is written; a context that leaves what a next one can go on with.

    kept: what the folder holds already. is_current: the index is complete and its video has not changed. Nothing
    changes in the folder before begin().
    """

    def __init__(self, folder: Path, header: Mapping[str, Any], frames_per_group: int, append: bool):
        """Takes the folder for itself. header: see open_header. append: an index whose video has grown is taken too.

        Raises FileExistsError where something else has the name, ValueError where the folder holds an index of another
        model, file or sampling, or somebody else is writing it.
        """
        self.folder, self.kept, self.is_current = folder, NOTHING_KEPT, False
        self._header, self._group = dict(header), frames_per_group
        self._segment_len = segment_len(header["groups_per_batch"])
        self._waiting: list[EncodedBatch] = []
        self._num_groups = 0
        self._is_new = not is_index(folder)
        check_output(folder, append)
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(folder)
        self._pool = ThreadPoolExecutor(1)  # a segment goes to disk while the next is encoded
        self._writing: Future | None = None
        try:
            if not self._is_new:
                self._read_kept(append)
        except (ValueError, OSError):
            self._release()
            raise

    def forget_from(self, frame_index: int) -> None:
        """Keeps only what stands before this frame."""
        self._keep(int(np.searchsorted(self.kept.frame_indices, frame_index)))

    def begin(self) -> None:
        """Opens the index: until finish() it is none. What is not kept is written anew."""
        full, rest = divmod(self.kept.num_groups, self._segment_len)
        if rest:
            num_before = full * self._segment_len * self._group
            indices = self.kept.frame_indices
            lost = self.kept.lost[self.kept.lost > (indices[num_before - 1] if full else -1)].tolist()
            tokens = read_tokens(self.folder, [segment_name(full)])[:rest]
            times = read_frames(self.folder, segment_name(full))[0][:rest]
            frames = (self.kept.frame_times_s[num_before:], indices[num_before:])
            self._waiting = [EncodedBatch(tokens, times, *frames, lost)]
        self._num_groups = full * self._segment_len
        write_header(self.folder, self._header)
        for path in (*self.folder.glob("segment-*"), *self.folder.glob(f"{PART}*")):
            if path.name not in {segment_name(number) for number in range(full)}:
                path.unlink()

    def last_kept_tokens(self, num_groups: int) -> np.ndarray:
        """The tokens [G, P, D] of the last batch that is kept."""
        number, last = divmod(self.kept.num_groups - 1, self._segment_len)
        return read_tokens(self.folder, [segment_name(number)])[: last + 1][-num_groups:]

    def add(self, batch: EncodedBatch) -> None:
        # A copy: on a CPU the tokens are the device's own memory, which would be held until the segment is full.
        self._waiting.append(batch._replace(tokens=batch.tokens.copy()))
        if sum(len(waiting.tokens) for waiting in self._waiting) >= self._segment_len:
            self._flush()

    def finish(self, lost: Sequence[int], end_s: float, timings: Mapping[str, float]) -> VideoIndex:
        self._flush()
        self._wait()
        num_segments = -(-self._num_groups // self._segment_len)
        write_header(self.folder, complete_header(self._header, self._num_groups, num_segments, end_s, lost))
        self._is_new = False
        return replace(VideoIndex.load(self.folder), timings=timings)

    def __enter__(self) -> "IndexWriter":
        return self

    def __exit__(self, *_) -> None:
        self._release()
        for path in self.folder.glob(f"{PART}*"):
            path.unlink(missing_ok=True)
        if self._is_new and not any(self.folder.glob("segment-*")):
            shutil.rmtree(self.folder, ignore_errors=True)  # nothing to go on with

    def _read_kept(self, append: bool) -> None:
        """Sets `kept` to the whole batches that are on disk."""
        header = read_header(self.folder)
        if "bytes" not in self._header["source"]:
            raise ValueError(f"{self.folder} is unfinished, and frames of an array are not known again: remove it")
        has_grown = append and bool(_differences(header, self._header, ("source",)))
        compared = ("fingerprint", "kind", "groups_per_batch", "sampling", *(() if append else ("source",)))
        if different := _differences(header, self._header, compared, ("spacing_s",) if append else ()):
            raise ValueError(
                f"{self.folder} was begun otherwise ({'; '.join(different)}): go on with what was used, or remove it"
            )
        self.is_current = header["state"] == "complete" and not has_grown
        segments: list[list[np.ndarray]] = []
        while not segments or len(segments[-1][0]) == self._segment_len:
            try:
                segments.append(read_frames(self.folder, segment_name(len(segments))))
            except (OSError, SafetensorError):  # not there, or not whole
                break
        if segments:
            group_times, times, indices, lost = map(np.concatenate, zip(*segments, strict=True))
            self.kept = KeptFrames(len(group_times), times, indices, lost)
            self._keep(len(indices))

    def _keep(self, num_frames: int) -> None:
        """Cuts `kept` to the whole batches of its first frames."""
        num_groups = min(self.kept.num_groups, num_frames // self._group)
        num_groups -= num_groups % self._header["groups_per_batch"]
        frames = slice(num_groups * self._group)
        indices = self.kept.frame_indices[frames]
        lost = self.kept.lost[self.kept.lost < (indices[-1] if num_groups else 0)]
        self.kept = KeptFrames(num_groups, self.kept.frame_times_s[frames], indices, lost)

    def _flush(self) -> None:
        """Hands what waits to the writing thread, as one segment."""
        self._wait()
        if self._waiting:
            tokens, group_times, frame_times, indices = (
                np.concatenate(parts) for parts in list(zip(*self._waiting, strict=True))[:4]
            )
            lost = np.array([index for batch in self._waiting for index in batch.lost], np.int64)
            number, self._waiting = self._num_groups // self._segment_len, []
            times = (group_times, frame_times, indices, lost)
            self._writing = self._pool.submit(write_segment, self.folder, number, tokens, times)
            self._num_groups += len(tokens)

    def _wait(self) -> None:
        """Until the last segment is on disk. Raises OSError where it could not be written."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            try:
                writing.result()
            except SafetensorError as error:
                raise OSError(f"{self.folder} cannot be written ({error})") from error

    def _release(self) -> None:
        self._pool.shutdown()
        os.close(self._lock)


def check_output(folder: Path, append: bool = False) -> None:
    """Raises FileExistsError unless an index can be begun or gone on with in the folder."""
    if is_index(folder):
        if read_header(folder)["state"] == "complete" and not append:
            raise FileExistsError(
                f"{folder} exists and is complete: remove it or choose another name; to go on with it where its video "
                "has grown, append"
            )
    elif not (folder.is_dir() and all(path.name.startswith(PART) for path in folder.iterdir())):
        refuse_existing(folder)


def is_done(folder: Path, fingerprint: str, source: Mapping[str, Any], sampling: Mapping[str, Any]) -> bool:
    """Whether the folder is the complete index of this video by this encoder. sampling: rule, fps and max_frames.

    Raises ValueError where it is the complete index of something else.
    """
    if not is_index(folder):
        return False
    header = read_header(folder)
    wanted = {"fingerprint": fingerprint, "source": source, "sampling": sampling}
    chosen = {name: value for name, value in header["sampling"].items() if name in sampling}
    different = _differences(header | {"sampling": chosen}, wanted, tuple(wanted))
    if header["state"] == "complete" and different:
        raise ValueError(f"{folder} is the index of something else ({'; '.join(different)}): remove it, or append")
    return header["state"] == "complete"


def _differences(
    stored: Mapping[str, Any], wanted: Mapping[str, Any], keys: Sequence[str], but: Sequence[str] = ()
) -> list[str]:
    """In words, where two headers differ; a path may: the same file can be named in several ways."""
    found = []
    for key in keys:
        if not isinstance(wanted[key], Mapping):
            pairs = {{"fingerprint": "model"}.get(key, key): (stored[key], wanted[key])}
        else:
            names = sorted({*stored[key], *wanted[key]} - {"path", *but})
            pairs = {f"{key} {name}": (stored[key].get(name), wanted[key].get(name)) for name in names}
        found += [f"{name}: {old} there, {new} now" for name, (old, new) in pairs.items() if old != new]
    return found


def _lock(folder: Path) -> int:
    """An open descriptor of the folder, which nobody else has locked. Raises ValueError if somebody has."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ValueError(
            f"{folder} is being written by another process: wait for it, or choose another name"
        ) from error
    return descriptor
