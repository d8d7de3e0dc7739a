"""From a video of any kind to exact frames: `open_video` and `open_frames`, and the Video they return.

Source: ours, measured (tests/data/test_video_decode.py).
Differs: the reference reads all through decord, which is silently wrong for several codecs and for damaged files;
here PyAV reads unless decord is asked for (video_decord.py says where it may be trusted).
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from vxlpro_jax.data.image_folder import ArrayFrames, ImageFiles, images_in, is_picture
from vxlpro_jax.data.video_records import FrameChunk, FrameSource, GoodFrames, VideoError, describe_lost

__all__ = ["FrameChunk", "GoodFrames", "Video", "VideoError", "open_frames", "open_video"]

OnDamage = Literal["raise", "skip"]
Decoder = Literal["pyav", "decord"]
_CHUNK_BYTES = 64 * 2**20  # of RGB frames held at once, unless chunk_len says otherwise
_MAX_CHUNK_LEN = 64


class Video:
    """Frames with their times, read as asked. Index i is the i-th frame that a viewer sees.

    num_frames, height, width: as a viewer sees them, rotation applied (non-square pixels are left as they are stored).
    times_s: float64 [num_frames], presentation times counted from the first shown frame (or as given, for pictures and
    arrays). duration_s: from the first frame's beginning to the last one's end. is_whole: False if the headers already
    show that the file is cut short: frames may be missing for which no index stands. path, decoder: for messages.
    """

    def __init__(self, source: FrameSource):
        self._source = source
        self.path, self.decoder = source.path, source.decoder
        self.height, self.width = source.height, source.width
        self.times_s, self.duration_s, self.is_whole = source.times_s, source.duration_s, source.is_whole
        self.num_frames = len(source.times_s)

    def read(self, indices: Sequence[int] | np.ndarray, on_damage: OnDamage = "raise") -> np.ndarray | GoodFrames:
        """uint8 [N, height, width, 3] in the order asked; repeats are allowed.

        A frame that damage took away: VideoError whose `lost` names all such frames, or with on_damage="skip" a
        GoodFrames without them. Besides the result, one chunk of frames is held. Raises IndexError for an index that
        is not in 0 .. num_frames - 1.
        """
        wanted = self._checked(indices, on_damage)
        frames = np.empty((len(wanted), self.height, self.width, 3), np.uint8)
        is_good = np.zeros(len(wanted), bool)
        lost: list[int] = []
        for chunk in self.read_chunks(wanted, on_damage="skip"):
            frames[chunk.positions] = chunk.frames
            is_good[chunk.positions] = True
            lost.extend(chunk.lost)
        if on_damage == "raise":
            if lost:
                raise VideoError(self.path, describe_lost(lost, self.num_frames), lost)
            return frames
        positions = np.flatnonzero(is_good)
        return GoodFrames(frames[positions] if lost else frames, wanted[positions], positions, tuple(lost))

    def read_chunks(
        self, indices: Sequence[int] | np.ndarray, chunk_len: int | None = None, on_damage: OnDamage = "raise"
    ) -> Iterator[FrameChunk]:
        """Yields the frames asked for in ascending order of index, at most chunk_len at a time (default: 64 MB).

        A chunk's `positions` say where its frames belong in `indices`. With on_damage="skip" lost frames are left out
        and named in `lost` of the chunk in whose stretch they fall (a chunk may be empty but for that); otherwise
        VideoError is raised at the first chunk that misses some.
        """
        wanted = self._checked(indices, on_damage)
        if chunk_len is None:
            chunk_len = max(1, min(_MAX_CHUNK_LEN, _CHUNK_BYTES // (3 * self.height * self.width)))
        elif chunk_len < 1:
            raise ValueError(f"chunk_len={chunk_len}: at least 1 frame at a time is read.")
        order = np.argsort(wanted, kind="stable")
        frame_of = self._decoded(wanted[order])
        for start in range(0, len(order), chunk_len):
            frames, positions, lost = [], [], []
            for position in order[start : start + chunk_len]:
                index, frame = next(frame_of)
                if frame is not None:
                    frames.append(frame)
                    positions.append(position)
                elif index not in lost:
                    lost.append(index)
            if lost and on_damage == "raise":
                raise VideoError(self.path, describe_lost(lost, self.num_frames), lost)
            stacked = np.stack(frames) if frames else np.empty((0, self.height, self.width, 3), np.uint8)
            places = np.array(positions, np.int64)
            yield FrameChunk(places, wanted[places], stacked, tuple(lost))

    def close(self) -> None:
        """Lets go of the file; `with open_video(...) as video` does it by itself."""
        self._source.close()

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Video({self.path!r}, {self.num_frames} frames {self.width}x{self.height}, {self.duration_s:.2f} s)"

    def _decoded(self, ascending: np.ndarray) -> Iterator[tuple[int, np.ndarray | None]]:
        """One (index, frame) for each entry; a repeated index is decoded once."""
        distinct, counts = np.unique(ascending, return_counts=True)
        source = self._source.frames(int(index) for index in distinct)
        for (index, frame), count in zip(source, counts, strict=True):
            for _ in range(count):
                yield index, frame

    def _checked(self, indices: Sequence[int] | np.ndarray, on_damage: str) -> np.ndarray:
        """int64 [N]."""
        if on_damage not in ("raise", "skip"):
            raise ValueError(f"on_damage={on_damage!r}: 'raise' or 'skip'.")
        wanted = np.asarray(indices)
        if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):
            raise TypeError(f"indices {wanted.dtype} {list(wanted.shape)}: a list of whole frame numbers is read.")
        wanted = wanted.astype(np.int64)
        outside = wanted[(wanted < 0) | (wanted >= self.num_frames)]
        if len(outside):
            raise IndexError(f"{self.path}: frame {outside[0]} asked for; there are 0 to {self.num_frames - 1}.")
        return wanted


def open_video(
    path: str | os.PathLike | Sequence[str | os.PathLike],
    times_s: Sequence[float] | np.ndarray | None = None,
    fps: float = 1.0,
    decoder: Decoder = "pyav",
) -> Video:
    """Opens a video file (its largest video stream), a picture, a folder of images, or a list of image files.

    times_s (one per image) or fps: when the images of a folder or list were taken; a video file has its own times.
    decoder: who reads a video file; "decord" is refused where it isn't exact. Opening demuxes a video but decodes its
    first frame only. Raises VideoError with path and reason for whatever is no readable video.
    """
    if decoder not in ("pyav", "decord"):
        raise ValueError(f"decoder={decoder!r}: 'pyav' or 'decord'.")
    if not isinstance(path, (str, os.PathLike)):
        return _open_images(f"list of {len(path)} images", [Path(item) for item in path], times_s, fps)
    place = Path(path)
    try:
        if place.is_dir():
            return _open_images(str(place), images_in(place), times_s, fps)
        if not place.exists():
            raise VideoError(place, "no such file")
        if not place.is_file():
            raise VideoError(place, "not a regular file")
        if place.stat().st_size == 0:
            raise VideoError(place, "the file is empty (0 bytes)")
        with open(place, "rb"):
            pass
        if is_picture(place):
            return _open_images(str(place), [place], times_s, fps)
        if times_s is not None:
            raise VideoError(place, "times_s is given, but a video file has its own times; only images take times_s")
        return Video(_open_file(place, decoder))
    except (OSError, UnicodeEncodeError) as error:
        raise VideoError(place, f"cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _open_file(place: Path, decoder: Decoder) -> FrameSource:
    # Here and not above: pictures and arrays of frames are read where PyAV is not installed.
    try:
        from vxlpro_jax.data.video_container import examine_file
        from vxlpro_jax.data.video_decord import DecordReader
        from vxlpro_jax.data.video_pyav import PyavReader
    except ImportError as error:
        raise VideoError(
            place, f"PyAV, which reads video files, cannot be imported ({error}): pip install av"
        ) from error
    file = examine_file(place)
    return DecordReader(file) if decoder == "decord" else PyavReader(file)


def open_frames(frames: np.ndarray, times_s: Sequence[float] | np.ndarray) -> Video:
    """A Video from an array uint8 [N, height, width, 3] and the time of each frame in seconds, ascending."""
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        kind = f"{frames.dtype} {list(frames.shape)}" if isinstance(frames, np.ndarray) else type(frames).__name__
        raise VideoError(ArrayFrames.path, f"frames are {kind}; accepted is a numpy array uint8 [N, height, width, 3]")
    if 0 in frames.shape:
        raise VideoError(ArrayFrames.path, f"frames {list(frames.shape)} hold no picture")
    times, duration_s = _given_times(ArrayFrames.path, len(frames), times_s, fps=1.0)
    return Video(ArrayFrames(frames, times, duration_s))


def _open_images(name: str, paths: list[Path], times_s, fps: float) -> Video:
    """Images as a video; VideoError if there are none, or one does not exist."""
    if not paths:
        raise VideoError(name, "no images in it (accepted: bmp, jpg, png, ppm, tif, webp)")
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise VideoError(name, f"{len(missing)} of its images don't exist: {missing[0]}")
    times, duration_s = _given_times(name, len(paths), times_s, fps)
    return Video(ImageFiles(name, paths, times, duration_s))


def _given_times(name: str, num_frames: int, times_s, fps: float) -> tuple[np.ndarray, float]:
    """(float64 [num_frames], duration_s) of frames whose times somebody states; the last one lasts a typical step."""
    if not (np.isfinite(fps) and fps > 0):
        raise VideoError(name, f"fps={fps}; a finite number above 0 is accepted")
    times = np.arange(num_frames) / fps if times_s is None else np.array(times_s, np.float64)
    if times.shape != (num_frames,) or not np.all(np.isfinite(times)) or np.any(np.diff(times) < 0):
        raise VideoError(
            name,
            f"times_s {list(times.shape)} for {num_frames} frames; accepted is one finite number per frame, ascending",
        )
    last_s = float(np.median(np.diff(times))) if num_frames > 1 else 1.0 / fps
    return times, float(times[-1] - times[0] + last_s)
