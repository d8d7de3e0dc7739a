"""What the rooms of video decoding speak: the error, a chunk of frames, what survived damage, a source of frames.

Source: ours (the reference hands file names to decord and lets its errors through).
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

MAX_PIXELS = 2**27  # of one frame or picture (400 MB of RGB); beyond, a file is a mistake or an attack
_SHOWN_INDICES = 8  # how many lost frames an error spells out


class VideoError(ValueError):
    """A video that cannot be opened or read: `path`, `reason`, and `lost`, the frame indices that damage took away."""

    def __init__(self, path: str | os.PathLike, reason: str, lost: Sequence[int] = ()):
        self.path = os.fspath(path)
        self.reason = reason
        self.lost = tuple(int(index) for index in lost)
        super().__init__(f"{self.path}: {reason}")

    def __reduce__(self):
        """Pickles by its three fields, so that worker processes can hand it over."""
        return type(self), (self.path, self.reason, self.lost)


def describe_lost(lost: Sequence[int], num_frames: int) -> str:
    """The reason of a VideoError about lost frames, short even when there are thousands."""
    shown = ", ".join(str(index) for index in lost[:_SHOWN_INDICES])
    more = f" and {len(lost) - _SHOWN_INDICES} more" if len(lost) > _SHOWN_INDICES else ""
    return (
        f"damaged or cut short: {len(lost)} of the frames asked for cannot be decoded (frames {shown}{more} of "
        f"{num_frames}); read(..., on_damage='skip') returns the good ones and names the lost"
    )


class FrameChunk(NamedTuple):
    """A few frames on their way to a consumer that never holds them all."""

    positions: np.ndarray  # int64 [n]: places in the list of indices that was asked for
    indices: np.ndarray  # int64 [n]: frame numbers in the video, ascending within and over chunks
    frames: np.ndarray  # uint8 [n, height, width, 3]
    lost: tuple[int, ...]  # frame numbers of this stretch that damage took away; they are in no chunk


class GoodFrames(NamedTuple):
    """What `read(..., on_damage='skip')` returns."""

    frames: np.ndarray  # uint8 [n, height, width, 3], in the order asked, without the lost ones
    indices: np.ndarray  # int64 [n]: the frame number of each
    positions: np.ndarray  # int64 [n]: its place in the list of indices that was asked for
    lost: tuple[int, ...]  # frame numbers asked for and not decodable, ascending


class FrameSource(Protocol):
    """Where a Video gets its pictures from: a decoder, a list of image files, an array."""

    path: str
    decoder: str  # who decodes: "pyav", "decord", "pillow" or "array"
    height: int
    width: int
    times_s: np.ndarray  # float64 [num_frames]
    duration_s: float
    is_whole: bool  # False: the file's headers show that it is cut short or damaged

    def frames(self, indices: Iterable[int]) -> Iterator[tuple[int, np.ndarray | None]]:
        """Yields (index, uint8 [height, width, 3]) for ascending distinct indices; None in place of a lost frame."""
        ...

    def close(self) -> None:
        """Lets go of files and decoders."""
        ...
