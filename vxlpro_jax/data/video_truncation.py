"""Whether an MP4 or Matroska file ends before its own headers say it does, read from those headers alone.

Source: ISO/IEC 14496-12 section 4.2 (boxes), RFC 8794 section 4 and 6 (EBML). FFmpeg ends such files silently.
"""

import os
from pathlib import Path
from typing import BinaryIO

_EBML_ID = b"\x1a\x45\xdf\xa3"
_SEGMENT_ID = b"\x18\x53\x80\x67"
_MAX_BOXES = 100_000  # of the outermost level (a fragmented file has two per fragment)


def is_cut_short(path: Path) -> bool:
    """True if the file is MP4/QuickTime or Matroska/WebM and its outermost elements reach past its end."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(8)
        if head[:4] == _EBML_ID:
            return _matroska_end(file, size) > size
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return _mp4_end(file, size) > size
    return False


def _mp4_end(file: BinaryIO, size: int) -> int:
    """Where the last outermost box ends; a box of size 0 reaches to the end of the file by definition."""
    start = 0
    for _ in range(_MAX_BOXES):
        file.seek(start)
        header = file.read(16)
        if len(header) < 8:
            return start if not header else start + 8
        length = int.from_bytes(header[:4], "big")
        if length == 1 and len(header) == 16:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:
            return size
        start += length
        if start >= size:
            return start
    return start


def _matroska_end(file: BinaryIO, size: int) -> int:
    """Where the Segment ends; a live recording leaves its length unknown and is never cut short."""
    file.seek(4)
    length = _ebml_length(file)
    if length is None:
        return size
    file.seek(length, os.SEEK_CUR)
    if file.read(4) != _SEGMENT_ID:
        return size
    length = _ebml_length(file)
    return size if length is None else file.tell() + length


def _ebml_length(file: BinaryIO) -> int | None:
    """A variable-length number; None where it is missing or says "unknown" (all ones)."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    num_bytes = 9 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0xFF >> num_bytes)]) + file.read(num_bytes - 1), "big")
    return None if value == (1 << (7 * num_bytes)) - 1 else value
