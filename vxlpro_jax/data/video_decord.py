"""Reading through decord where its frames are FFmpeg's bit by bit: h264, VP8, VP9 and mjpeg in plain MP4 and Matroska.

Source: ours, measured with decord 0.6.0: silently wrong for HEVC, mpeg4, .ts and edit lists; no AV1, no gif.
Differs: only on request. On whole files with closed groups it is exact but no faster than PyAV. In open h264 groups
sparse reads gave frame 103 for 100 and for 119; of 12 h264 clips with overwritten bytes 8 gave wrong frames without a
word (PyAV reports 6 of these), and no header tells a damaged file from a whole one.
"""

import os
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from vxlpro_jax.data.video_container import VideoFile
from vxlpro_jax.data.video_pyav import PyavReader
from vxlpro_jax.data.video_records import VideoError

_EXACT_CODECS = ("h264", "vp8", "vp9", "mjpeg")
_EXACT_PIXEL_FORMATS = ("yuv420p", "yuvj420p")  # its RGB of 10-bit and 4:4:4 pictures differs from FFmpeg's present one
_MAX_DRIFT_S = 0.002  # Matroska rounds times to milliseconds
_BATCH_BYTES = 32 * 2**20
_MAX_BATCH = 32
_MAX_THREADS = 8


def why_decord_is_not_exact(file: VideoFile) -> str | None:
    """What in the container forbids decord for this file; None if nothing does."""
    facts = {
        "the file is cut short or damaged": not file.is_whole,
        f"container {file.format_name}": not file.is_seekable,
        f"codec {file.codec}": file.codec not in _EXACT_CODECS,
        f"pixels {file.pixel_format}": file.pixel_format not in _EXACT_PIXEL_FORMATS,
        "odd height or width": bool(file.coded_height % 2 or file.coded_width % 2),
        "several video streams": file.num_streams > 1,
        "frames hidden by an edit list": file.has_hidden_packets,
        "open groups of pictures": file.table.has_open_groups,
        "mirrored frames": file.is_mirrored,
    }
    return next((fact for fact, holds in facts.items() if holds), None)


class DecordReader:
    """Frames of one file; see FrameSource. What decord fails on is read again, and judged, by PyAV."""

    decoder = "decord"

    def __init__(self, file: VideoFile):
        """Raises VideoError where decord cannot be imported, is not exact, or counts or dates frames differently."""
        reason = why_decord_is_not_exact(file)
        if reason is not None:
            raise VideoError(file.path, f"decord is not exact here ({reason}); use decoder='pyav'")
        try:
            import decord
        except ImportError as error:
            raise VideoError(file.path, "decord is not installed; use decoder='pyav'") from error
        decord.logging.set_level(decord.logging.QUIET)
        self.path, self.height, self.width = file.path, file.height, file.width
        self.times_s, self.duration_s, self.is_whole = file.table.times_s, file.table.duration_s, file.is_whole
        self._error = decord.DECORDError
        self._second_opinion = PyavReader(file)
        try:
            self._reader = decord.VideoReader(file.path, num_threads=min(os.cpu_count() or 1, _MAX_THREADS))
        except (decord.DECORDError, RuntimeError) as error:
            raise VideoError(file.path, "decord cannot open it; use decoder='pyav'") from error
        if not self._agrees():
            raise VideoError(file.path, "decord counts or dates its frames differently; use decoder='pyav'")

    def frames(self, indices: Iterable[int]) -> Iterator[tuple[int, np.ndarray | None]]:
        """See FrameSource.frames."""
        size = max(1, min(_MAX_BATCH, _BATCH_BYTES // (3 * self.height * self.width)))
        wanted = iter(indices)
        while batch := list(islice(wanted, size)):
            try:
                frames = self._reader.get_batch(batch)
            except self._error:
                yield from self._second_opinion.frames(batch)
                continue
            images = frames.asnumpy() if hasattr(frames, "asnumpy") else np.asarray(frames)
            yield from zip(batch, images, strict=True)

    def close(self) -> None:
        """Lets go of the file."""
        self._reader = None
        self._second_opinion.close()

    def _agrees(self) -> bool:
        """True if decord sees the same frames at the same times as the packets say."""
        if len(self._reader) != len(self.times_s):
            return False
        starts_s = self._reader.get_frame_timestamp(range(len(self._reader)))[:, 0]
        return bool(np.all(np.abs(starts_s - starts_s[0] - self.times_s) < _MAX_DRIFT_S))
