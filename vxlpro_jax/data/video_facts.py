"""What a plan has to know of each video or picture before it is read: size, length, cuts; kept in a file.

Source: paper 4.1 (filters by length and scene changes); the score of a cut is FFmpeg's (filter "select").
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import av
import av.filter

from vxlpro_jax.data.video_container import open_container
from vxlpro_jax.data.video_decode import open_video
from vxlpro_jax.data.video_records import VideoError

CUT_SCORE = 0.3  # of FFmpeg's scene score in [0, 1], beyond which a frame opens a new scene; FFmpeg suggests 0.3 to 0.5
CUT_WIDTH = 160  # pixels to which frames are reduced before they are compared
UNKNOWN = -1


class MediaFacts(NamedTuple):
    """num_frames; span_s: from the first frame to the last; duration_s: to the end of the last; height, width as a
    viewer sees them; is_picture: a still one; scene_changes: cuts, UNKNOWN where nobody counted; fault: why it cannot
    be opened, else empty. mtime_ns, size_bytes: of the file, 0 where there is none."""

    num_frames: int
    span_s: float
    duration_s: float
    height: int
    width: int
    is_picture: bool
    scene_changes: int
    fault: str
    mtime_ns: int
    size_bytes: int


def examine_media(path: str, count_cuts: bool = False) -> MediaFacts:
    """The facts of one file; never raises for what is wrong with it, but tells it as `fault`."""
    try:
        stat = os.stat(path)
        stamp = (stat.st_mtime_ns, stat.st_size)
    except OSError:
        stamp = (0, 0)
    try:
        with open_video(path) as video:
            is_picture = video.decoder == "pillow"
            span_s = float(video.times_s[-1] - video.times_s[0])
            sizes = (video.num_frames, span_s, video.duration_s, video.height, video.width)
        cuts = count_scene_changes(path) if count_cuts and not is_picture else UNKNOWN
        return MediaFacts(*sizes, is_picture, 0 if is_picture else cuts, "", *stamp)
    except VideoError as error:
        return MediaFacts(0, 0.0, 0.0, 0, 0, False, UNKNOWN, error.reason, *stamp)


def count_scene_changes(path: str) -> int:
    """Frames that open a new scene. Decodes the whole video. Raises VideoError where it cannot be decoded."""
    with open_container(path) as container:
        stream = max(container.streams.video, key=lambda stream: stream.width * stream.height)
        graph = av.filter.Graph()
        source = graph.add_buffer(template=stream)
        last = graph.add("buffersink")
        chain = [
            source,
            graph.add("scale", f"{CUT_WIDTH}:-2"),
            graph.add("select", f"gt(scene\\,{CUT_SCORE})"),
            last,
        ]
        for one, other in zip(chain[:-1], chain[1:], strict=True):
            one.link_to(other)
        graph.configure()
        count = 0
        try:
            for frame in container.decode(stream):
                graph.push(frame)
                count += _pulled(graph)
            graph.push(None)
            return count + _pulled(graph)
        except av.FFmpegError as error:
            raise VideoError(path, f"damaged: cuts cannot be counted ({error.strerror})") from error


def _pulled(graph: av.filter.Graph) -> int:
    """How many frames the graph lets out by now."""
    count = 0
    while True:
        try:
            graph.pull()
            count += 1
        except (BlockingIOError, EOFError):
            return count


class FactStore:
    """Facts by path, kept in a JSONL file that only grows; a line that a kill cut in half is forgotten."""

    def __init__(self, file: Path | None):
        """file: None keeps them in memory alone."""
        self.file = file
        self.facts: dict[str, MediaFacts] = {}
        if file is not None and file.exists():
            text = file.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]
            if whole != text:
                part = file.with_name(f".part-{file.name}")
                part.write_text(whole, encoding="utf-8")
                part.replace(file)
            for line in whole.splitlines():
                path, *values = json.loads(line)
                self.facts[path] = MediaFacts(*values)

    def survey(
        self,
        paths: Sequence[str],
        count_cuts: bool = False,
        refresh: bool = False,
        num_threads: int = 2,
        progress: Callable[[Iterator[str], int], Iterator[str]] = lambda items, total: items,
    ) -> dict[str, MediaFacts]:
        """Facts of all paths; files not known yet are examined.

        refresh: examine again what has changed since (by size and time), and what could not be opened. A training run
        does not: its plan follows from what was found at its beginning. progress wraps the paths being examined.
        """
        missing = [path for path in dict.fromkeys(paths) if self._is_wanted(path, count_cuts, refresh)]

        def examined() -> Iterator[str]:
            with ThreadPoolExecutor(max(1, num_threads)) as pool:
                chunk = 256  # so that files examined but not yet written stay few
                for start in range(0, len(missing), chunk):
                    part = missing[start : start + chunk]
                    for path, facts in zip(part, pool.map(lambda p: examine_media(p, count_cuts), part), strict=True):
                        self._add(path, facts)
                        yield path

        for _ in progress(examined(), len(missing)):
            pass
        return {path: self.facts[path] for path in dict.fromkeys(paths)}

    def _is_wanted(self, path: str, count_cuts: bool, refresh: bool) -> bool:
        known = self.facts.get(path)
        if known is None or (count_cuts and known.scene_changes == UNKNOWN and not known.fault):
            return True
        if not refresh:
            return False
        try:
            stat = os.stat(path)
        except OSError:
            return not known.fault
        return bool(known.fault) or (stat.st_mtime_ns, stat.st_size) != (known.mtime_ns, known.size_bytes)

    def _add(self, path: str, facts: MediaFacts) -> None:
        self.facts[path] = facts
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with open(self.file, "a", encoding="utf-8") as file:
                file.write(json.dumps([path, *facts]) + "\n")
