"""Exact reading of any frame of any file through PyAV: seeks that are checked, losses that are found and named.

Source: ours, measured (tests/data/test_video_pyav.py). FFmpeg conceals damage: it repeats or smears what it has and
goes on. Here a frame counts as lost from the first complaint of the decoder to the next key frame: all of these may
lean on the damage.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import PictureType
from av.video.stream import VideoStream

from vxlpro_jax.data.video_container import VideoFile, open_container, select_stream
from vxlpro_jax.data.video_records import VideoError

_MAX_THREADS = 8  # each decoding thread holds a frame or more
_SEEK_GAIN = 8  # packets that a seek must save, or decoding simply goes on
_EARLIER_TRIES = 3  # key frames to try before starting from the beginning of the file
_WHITE = 255  # the page on which transparent pictures are shown


class PyavReader:
    """Frames of one file; see FrameSource. Keeps its place, so that asking for the next frames doesn't start anew."""

    decoder = "pyav"

    def __init__(self, file: VideoFile):
        table = file.table
        self.path, self.height, self.width = file.path, file.height, file.width
        self.times_s, self.duration_s, self.is_whole = table.times_s, table.duration_s, file.is_whole
        self._file, self._table = file, table
        self._is_seekable = file.is_seekable
        self._run = _DecodingRun(file, min(os.cpu_count() or 1, _MAX_THREADS))
        self._lost = set(table.lost)
        self._examined = {0} if table.is_ordinal else set()  # groups whose losses are known
        self._start_of: dict[int, int] = {}  # groups that must be decoded from further back than their own key frame

    def frames(self, indices: Iterable[int]) -> Iterator[tuple[int, np.ndarray | None]]:
        """See FrameSource.frames."""
        for index in indices:
            frame = self._frame_at(index)
            yield index, None if frame is None else self._picture(frame)

    def close(self) -> None:
        """Closes the file; reading again opens it again."""
        self._run.close()

    def _frame_at(self, index: int) -> av.VideoFrame | None:
        """The frame, or None if it is lost."""
        if index in self._lost:
            return None
        gop = int(self._table.gop_of[index])
        frame = self._advance_to(index, gop)
        if gop not in self._examined and (frame is None or gop in self._run.suspects):
            self._examine(gop)
            self._run.close()
            frame = None if index in self._lost else self._advance_to(index, gop)
        if frame is None:
            self._lost.add(index)
        return frame

    def _advance_to(self, index: int, gop: int) -> av.VideoFrame | None:
        """Decodes up to the frame and to all that was decoded before it, so that complaints about these are heard."""
        run, start = self._run, self._start_of.get(gop, gop) if self._is_seekable else 0
        saved = self._table.key_positions[start] - run.position
        if not run.is_open or index < run.next_index or saved > _SEEK_GAIN:
            run.start(start)
        settled_by = int(self._table.settled_by[index])
        while True:
            if run.began_amid:  # key frames of this file are none (periodic intra refresh): only its beginning is one
                self._is_seekable = False
                run.start(0)
            run.drop_before(index)
            if run.ready and (run.ready[-1][0] >= settled_by or run.is_ended):
                found, frame = run.ready[0]
                return frame if found == index else None
            if run.is_ended:
                return None
            run.pump()

    def _examine(self, gop: int) -> None:
        """Decodes a suspicious group alone on one thread and notes which of its frames are lost."""
        members = self._table.gop_frames(gop)
        careful = _DecodingRun(self._file, 1)
        try:
            for start in dict.fromkeys((gop if self._is_seekable else 0, 0)):
                shown, bad_from = self._shown_and_bad(careful, start, members)
                missing = [index for index in members if index not in shown and index not in self._lost]
                if not missing or bad_from < members.stop:
                    break
            # silent absence: this group's key frame is none, so start from where its frames did appear
            self._start_of[gop] = start
        finally:
            careful.close()
        bad_from = min(
            [bad_from, *(self._first_leaning_on(self._table.positions[index], members) for index in missing)]
        )
        self._lost.update(index for index in members if index not in shown or index >= bad_from)
        self._examined.add(gop)

    def _shown_and_bad(self, run: "_DecodingRun", start: int, members: range) -> tuple[set[int], int]:
        """(members of the group that were shown, the first that can't be trusted any more; members.stop if none)."""
        shown, bad_from = set(), members.stop
        last = members.start - 1
        run.start(start)
        while not run.is_ended and last < members.stop:
            bad = run.pump()
            while run.ready:
                last, frame = run.ready.popleft()
                if last in members:
                    shown.add(last)
                    if frame.is_corrupt:
                        bad.append(int(self._table.positions[last]))
            for position in bad:
                if self._is_of(position, members):
                    leaning = self._first_leaning_on(position, members)
                    bad_from = min(bad_from, leaning, max(last + 1, members.start))
        return shown, bad_from

    def _first_leaning_on(self, position: int, members: range) -> int:
        """The first of the group's frames that is decoded from this packet or after it."""
        return min((index for index in members if self._table.positions[index] >= position), default=members.stop)

    def _is_of(self, position: int, members: range) -> bool:
        """True if the packet at this position belongs to the group, hidden packets included."""
        gop = int(self._table.gop_of[members.start])
        positions = self._table.positions[members.start : members.stop]
        return self._table.key_positions[gop] <= position <= positions.max()

    def _picture(self, frame: av.VideoFrame) -> np.ndarray:
        """RGB as a viewer sees it: on white, mirrored and turned as the file says. Raises VideoError if it can't be."""
        file = self._file
        is_transparent = frame.format.has_palette or any(component.is_alpha for component in frame.format.components)
        try:
            # the size is the first frame's, should it change on the way
            image = frame.to_ndarray(
                width=file.coded_width, height=file.coded_height, format="rgba" if is_transparent else "rgb24"
            )
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(self.path, f"frames of format {frame.format.name} cannot be shown as RGB") from error
        if image.shape[-1] == 4:
            image = flatten_on_white(image)
        if file.is_mirrored:
            image = image[:, ::-1]
        return np.ascontiguousarray(np.rot90(image, file.quarter_turns))


def flatten_on_white(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 4] with straight alpha -> uint8 [H, W, 3] as on a white page."""
    alpha = image[..., 3:].astype(np.uint16)
    return ((image[..., :3] * alpha + _WHITE * (255 - alpha) + 127) // 255).astype(np.uint8)


class _DecodingRun:
    """One decoder at work: started at a group, pumped packet by packet, its frames waiting in `ready`."""

    def __init__(self, file: VideoFile, num_threads: int):
        self._file, self._table, self._num_threads = file, file.table, num_threads
        self._container: InputContainer | None = None
        self._stream: VideoStream | None = None
        self._packets: Iterator[av.Packet] = iter(())
        self.ready: deque[tuple[int, av.VideoFrame]] = deque()
        self.position = -1  # of the last packet fed
        self.first_index = 0  # frames before this one come out damaged, if at all: the run began after what they need
        self.next_index = 0  # frames before this one have passed by
        self._num_shown = 0
        self._expected = 0
        self.is_ended = True
        self._is_fresh = True  # neither a frame nor a complaint since the start
        self.began_amid = False  # True: the "key" frame begun at leans on frames before it
        self.suspects: set[int] = set()  # groups about which the decoder complained

    @property
    def is_open(self) -> bool:
        """True between start and close."""
        return self._container is not None

    def close(self) -> None:
        """Closes the file."""
        if self._container is not None:
            self._container.close()
        self._container = self._stream = None
        self._packets = iter(())
        self.ready.clear()
        self.is_ended = True

    def start(self, gop: int) -> None:
        """Begins at the key packet of this group or before it; only the beginning of the file is trusted blindly."""
        self.ready.clear()
        self.is_ended = self.began_amid = False
        self._is_fresh = True
        landed = self._seek(gop) if gop > 0 else None
        if landed is None:
            self.close()
            container, stream = self._open()
            self.is_ended, self.position, self.first_index, self._num_shown = False, -1, 0, 0
            self._packets = container.demux(stream)
        else:
            self.position = int(self._table.key_positions[landed]) - 1
            self.first_index = self._table.first_frame_from(landed)
        self.next_index = self._expected = self.first_index

    def _open(self) -> tuple[InputContainer, VideoStream]:
        """The file, opened if it isn't."""
        if self._container is None or self._stream is None:
            self._container = open_container(self._file.path)
            self._stream = select_stream(self._container, self._file.stream_index)
            self._stream.codec_context.thread_count = self._num_threads
            self._stream.thread_type = "AUTO"
        return self._container, self._stream

    def _seek(self, gop: int) -> int | None:
        """Lands on this group's key packet or an earlier one's; returns the group landed on, None if it won't work."""
        container, stream = self._open()
        earliest = max(0, gop - _EARLIER_TRIES)
        times = [int(self._table.key_pts[gop]), self._table.key_dts[gop]]
        times += [int(self._table.key_pts[earlier]) for earlier in range(gop - 1, earliest, -1)]
        for time in times:
            if time is None:
                continue
            try:
                container.seek(time, stream=stream, backward=True)
                packets = container.demux(stream)
                first = next(packets, None)
            except av.FFmpegError:
                continue
            position = None if first is None else self._table.position_by_pts.get(first.pts)
            if first is None or position is None or position > self._table.key_positions[gop]:
                continue
            landed = self._table.gop_at(position)
            if landed > 0 and self._table.key_positions[landed] == position:
                self._packets = chain([first], packets)
                return landed
        return None

    def drop_before(self, index: int) -> None:
        """Forgets waiting frames that nobody wants any more."""
        while self.ready and self.ready[0][0] < index:
            self.ready.popleft()
        self.next_index = max(self.next_index, index)

    def pump(self) -> list[int]:
        """Feeds one packet and collects what comes out; returns positions of packets that the decoder refused."""
        try:
            packet = next(self._packets, None)
        except av.FFmpegError:
            packet = None
        if packet is None or packet.size == 0:  # the end: what the decoder still holds comes out
            self.is_ended = True
            packet = None
        else:
            self.position = self._table.position_by_pts.get(packet.pts, self.position + 1)
        try:
            frames = self._open()[1].codec_context.decode(packet)
        except av.FFmpegError:
            self._is_fresh = False
            # threads may have run ahead of the packet that failed
            for behind in range(self._num_threads + 1):
                self.suspects.add(self._table.gop_at(max(0, self.position - behind)))
            index = None if packet is None else self._table.index_by_pts.get(packet.pts)
            return [] if index is not None and index < self.first_index else [self.position]
        for frame in frames:
            self._collect(frame)
        return []

    def _collect(self, frame: av.VideoFrame) -> None:
        """Puts a frame among those waiting, unless it is hidden, a leading picture, or has passed by."""
        index = self._num_shown if self._table.is_ordinal else self._table.index_by_pts.get(frame.pts)
        self._num_shown += 1
        if index is None or index < self.first_index:
            return
        if self._is_fresh and self.first_index > 0:
            self.began_amid = index > self.first_index or frame.pict_type in (PictureType.P, PictureType.B)
        self._is_fresh = False
        if index > self._expected:  # frames were left out without a word
            self.suspects.update(self._table.gop_of[self._expected : index + 1].tolist())
        self._expected = index + 1
        if frame.is_corrupt:
            self.suspects.add(int(self._table.gop_of[index]))
        if index >= self.next_index:
            self.ready.append((index, frame))
