"""Subtitle lines that belong to the frames a model looks at.

Source: the usual protocol of subtitle-aware video benchmarks: the lines on screen at the sampled frames, in order,
before the question.
"""

from pathlib import Path

import numpy as np
import srt

MAX_BYTES = 16 * 2**20  # an hour of speech is about 100 KB


def read_subtitles(path: str | Path, frame_times_s: np.ndarray) -> str:
    """The lines of an .srt file that are on screen at one of frame_times_s (seconds), joined, each once.

    Raises ValueError when the file cannot be read as subtitles.
    """
    file = Path(path)
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(f"{file}: larger than {MAX_BYTES // 2**20} MB: not a subtitle file")
        lines = list(srt.parse(file.read_text(encoding="utf-8-sig", errors="replace")))
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from error
    except srt.SRTParseError as error:
        raise ValueError(f"{file}: not an .srt file ({error})") from error
    if not lines:
        raise ValueError(f"{file}: no subtitles in it; .srt is accepted")
    times = np.asarray(frame_times_s)
    shown = [
        " ".join(line.content.split())
        for line in sorted(lines)
        if np.any((times >= line.start.total_seconds()) & (times <= line.end.total_seconds()))
    ]
    return "\n".join(shown)
