"""Subtitle lines that belong to the frames a model looks at.

Source: the usual protocol of subtitle-aware video benchmarks: the lines on screen at the sampled frames, in order,
before the question.
"""

import re
from pathlib import Path

import numpy as np

MAX_BYTES = 16 * 2**20  # an hour of speech is about 100 KB
_STYLE = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")  # <i>, <font ...>, {\an8}


def read_subtitles(path: str | Path, frame_times_s: np.ndarray) -> str:
    """The lines of an .srt file that are on screen at one of frame_times_s (seconds), joined, each once.

    Styling is left out, and with it whatever is spelled like a chat marker. Raises ValueError when the file cannot be
    read as subtitles.
    """
    import srt  # here and not above: who has no subtitles needs no reader of them

    file = Path(path)
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(f"{file}: larger than {MAX_BYTES // 2**20} MB: not a subtitle file")
        lines = list(srt.parse(_decoded(file.read_bytes())))
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from error
    except (srt.SRTParseError, OverflowError) as error:
        raise ValueError(f"{file}: not an .srt file ({error})") from error
    if not lines:
        raise ValueError(f"{file}: no subtitles in it; .srt is accepted")
    times = np.asarray(frame_times_s)
    shown = [
        _plain(line.content)
        for line in sorted(lines)
        if np.any((times >= line.start.total_seconds()) & (times <= line.end.total_seconds()))
    ]
    return "\n".join(filter(None, shown))


def _decoded(data: bytes) -> str:
    """The encodings that subtitle files come in: UTF-16 with its mark, UTF-8, else the old western one."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _plain(content: str) -> str:
    """One line without styling; "<|" opens the chat markers, and removing a tag could put one together."""
    return " ".join(_STYLE.sub("", content).split()).replace("<|", "< |")
