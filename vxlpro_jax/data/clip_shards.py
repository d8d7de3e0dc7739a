"""Clips on disk, made once: tower features or frames, one file per source, read by index.

Source: ours; the tower is frozen in the stage that compresses tokens (paper 3.2), so its features never change.
A folder holds shards.json, which tells what the clips are made of and by what, and one .npy per source, or a .txt with
the reason why a source gave nothing. Each is written beside and renamed: whoever is killed goes on where it stopped.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from vxlpro_jax.data.video_records import VideoError

INDEX_FILE = "shards.json"
OPEN_SHARDS = 64  # files mapped at once


@dataclass(frozen=True)
class ClipSource:
    """Where clips come from. name: unique, for messages and to recognise it. is_image: pictures, each a clip of one
    frame. load: () -> frames uint8 [n, t, S, S, 3]; it may raise VideoError."""

    name: str
    is_image: bool
    load: Callable[[], np.ndarray]


class ClipShards:
    """The clips of a finished folder: features float [n, t, g, g, E] or frames uint8 [n, t, S, S, 3].

    num_clips: of all sources. is_image bool, source int32 [num_clips]: whether a clip is a picture, and the number of
    its source. sources: their names. broken: reasons by name of the sources that gave nothing.
    """

    def __init__(self, folder: str | Path, clip_len: int):
        self.folder, self.clip_len = Path(folder), clip_len
        index = json.loads((self.folder / INDEX_FILE).read_text(encoding="utf-8"))
        self.sources = [name for name, _ in index["sources"]]
        self.broken: dict[str, str] = {}
        counts = []
        for number, name in enumerate(self.sources):
            path = _shard(self.folder, number)
            if not path.exists():
                self.broken[name] = path.with_suffix(".txt").read_text(encoding="utf-8")
            counts.append(len(np.load(path, mmap_mode="r")) if path.exists() else 0)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self.num_clips = int(self._starts[-1])
        self.source = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self.is_image = np.repeat([bool(flag) for _, flag in index["sources"]], counts)
        self._open = lru_cache(maxsize=OPEN_SHARDS)(lambda number: np.load(_shard(self.folder, number), mmap_mode="r"))

    def take(self, chosen: Sequence[int] | np.ndarray) -> np.ndarray:
        """The chosen clips [n, clip_len, ...] in the order asked; a picture stands still for a whole clip."""
        clips = []
        for clip in np.asarray(chosen):
            number = int(self.source[clip])
            part = np.asarray(self._open(number)[clip - self._starts[number]])
            clips.append(np.repeat(part, self.clip_len // len(part), axis=0))
        return np.stack(clips)


def write_shards(
    folder: str | Path,
    sources: Sequence[ClipSource],
    encode: Callable[[np.ndarray], np.ndarray],
    made_by: dict[str, Any],
) -> Iterator[ClipSource]:
    """Encode what is not there yet, source by source; yields each source that is done.

    encode: frames uint8 [n, t, S, S, 3] -> what is kept of each clip. made_by: all that the result depends on besides
    the sources (fingerprint of the tower, type, clip length), fit for JSON. A source that raises VideoError is noted
    with its reason and gives no clips. Raises ValueError when the folder holds clips of other sources or another maker.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    index = {"made_by": made_by, "sources": [[source.name, source.is_image] for source in sources]}
    _claim(folder, index)
    for number, source in enumerate(sources):
        path = _shard(folder, number)
        if not path.exists() and not path.with_suffix(".txt").exists():
            try:
                clips = encode(source.load())
            except VideoError as error:
                _replace(path.with_suffix(".txt"), partial(_write, str(error)))
            else:
                _replace(path, partial(_save, clips))
        yield source


def _claim(folder: Path, index: dict[str, Any]) -> None:
    """Write the index, or see that the one that is there is the same."""
    path = folder / INDEX_FILE
    if not path.exists():
        _replace(path, partial(_write, json.dumps(index, indent=1) + "\n"))
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    if found == json.loads(json.dumps(index)):
        return
    differs = [key for key in index["made_by"] if found["made_by"].get(key) != index["made_by"][key]] or ["sources"]
    raise ValueError(
        f"{folder}: holds clips that were made otherwise ({', '.join(differs)}): remove the folder or name another one"
    )


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    part = path.with_name(f".part-{path.name}")
    write(part)
    part.replace(path)


def _write(text: str, part: Path) -> None:
    part.write_text(text, encoding="utf-8")


def _save(clips: np.ndarray, part: Path) -> None:
    with part.open("wb") as file:  # given a name, numpy would add its own suffix
        np.save(file, clips)


def _shard(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.npy"
