"""Opening a video file: its stream, its table of frames and its looks, by demuxing and decoding as little as possible.

Source: ours, measured on real files (several streams, edit lists, start offsets, rotation).
Differs: a stream whose packets tell no usable presentation times (AVI with B-frames, joined or broken files) is decoded
once at opening, frame by frame, because nothing else tells how many frames it shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np

from vxlpro_jax.data.frame_table import (
    FrameTable,
    PacketRecord,
    has_usable_times,
    table_from_count,
    table_from_packets,
)
from vxlpro_jax.data.video_records import MAX_PIXELS, VideoError
from vxlpro_jax.data.video_truncation import is_cut_short

_DEFAULT_FRAME_S = 0.04  # 25 frames/s, when neither packets nor header tell
_SEEKABLE_FORMATS = ("mp4", "matroska")  # a seek lands on a packet that can be identified; others: from the start
_TIMELESS_FORMATS = ("avi", "h264", "hevc", "m4v", "mpegvideo")  # they store decoding order only
_PLAYLISTS = ("concat", "dash", "hls", "imf", "rtsp", "sdp", "webm_dash_manifest")  # texts that open what they name
_FULL_TURN = 1 << 16  # 1.0 in a display matrix


@dataclass(frozen=True)
class VideoFile:
    """All that later readers need to know of a file."""

    path: str
    stream_index: int
    num_streams: int  # video streams, pictures on covers not counted
    format_name: str
    codec: str
    pixel_format: str
    coded_height: int  # before rotation
    coded_width: int
    quarter_turns: int  # anticlockwise, applied after mirroring
    is_mirrored: bool  # left and right exchanged before turning
    is_whole: bool  # False: cut short, or the demuxer complained
    is_seekable: bool
    has_hidden_packets: bool  # edit list, invisible reference frames
    table: FrameTable

    @property
    def height(self) -> int:
        """As a viewer sees it."""
        return self.coded_width if self.quarter_turns % 2 else self.coded_height

    @property
    def width(self) -> int:
        """As a viewer sees it."""
        return self.coded_height if self.quarter_turns % 2 else self.coded_width


def open_container(path: str) -> av.container.InputContainer:
    """PyAV's container; VideoError if no demuxer takes the file, or if it is a playlist of other files or streams."""
    try:
        container = av.open(path, metadata_errors="ignore")
    except av.FFmpegError as error:
        hint = "; the file is cut short" if is_cut_short(Path(path)) else ""
        raise VideoError(path, f"not a video that FFmpeg can open ({error.strerror}{hint})") from error
    if container.format.name in _PLAYLISTS:
        container.close()
        raise VideoError(path, f"not a video but a playlist ({container.format.name}): open the files that it names")
    return container


def select_stream(container: av.container.InputContainer, index: int) -> av.video.stream.VideoStream:
    """The stream of this index; the demuxer drops all others."""
    for stream in container.streams:
        if stream.index != index and hasattr(
            av.stream, "Discard"
        ):  # since PyAV 17; before, other packets are read along
            stream.discard = av.stream.Discard.all
    return next(stream for stream in container.streams.video if stream.index == index)


def examine_file(path: Path) -> VideoFile:
    """Demuxes once, decodes the first frame. Raises VideoError if there is no video stream or no decodable frame."""
    name = str(path)
    with open_container(name) as container:
        candidates = [stream for stream in container.streams.video if not _is_cover(stream)]
        if not candidates:
            kinds = ", ".join(sorted({_kind(stream) for stream in container.streams}))
            raise VideoError(path, f"no video stream in it (found: {kinds or 'no stream at all'})")
        stream = select_stream(container, max(candidates, key=lambda s: (s.width * s.height, -s.index)).index)
        if stream.width * stream.height > MAX_PIXELS:
            raise VideoError(path, f"frames of {stream.width}x{stream.height} pixels; at most {MAX_PIXELS} are read")
        packets, is_complete = _demux(container, stream)
        is_complete = is_complete and not is_cut_short(path)
        frame_s = float(1 / stream.average_rate) if stream.average_rate else _DEFAULT_FRAME_S
        end_s = _announced_end(stream, (container.duration or 0) / av.time_base, is_complete)
        index, time_base = stream.index, stream.time_base or Fraction(1, 1000)
        is_guesswork = container.format.name in _TIMELESS_FORMATS and bool(stream.codec_context.has_b_frames)
        facts = (container.format.name, stream.codec_context.codec.canonical_name, stream.codec_context.pix_fmt or "")
    if not packets:
        raise VideoError(path, "the video stream is empty (or the file is cut off before its first frame)")
    first, decoded = _decode_head(name, index, packets)
    if has_usable_times(packets) and decoded is not None and not is_guesswork:
        packets = _without_undecodable_lead(packets, decoded)
        table = table_from_packets(packets, time_base, frame_s, end_s, is_complete)
    else:
        stamps_s, corrupt = _count_frames(name, index, time_base)
        table = table_from_count([None] * len(stamps_s) if is_guesswork else stamps_s, corrupt, frame_s)
    quarter_turns, is_mirrored = orientation(display_matrix(first))
    return VideoFile(
        path=name,
        stream_index=index,
        num_streams=len(candidates),
        format_name=facts[0],
        codec=facts[1],
        pixel_format=facts[2],
        coded_height=first.height,
        coded_width=first.width,
        quarter_turns=quarter_turns,
        is_mirrored=is_mirrored,
        is_whole=is_complete and not table.lost,
        is_seekable=any(name in facts[0] for name in _SEEKABLE_FORMATS) and not table.is_ordinal,
        has_hidden_packets=not all(packet.is_shown for packet in packets),
        table=table,
    )


def _kind(stream) -> str:
    """What a stream that is no video counts as."""
    return "video of unknown codec or size, or a cover picture" if stream.type == "video" else stream.type


def _is_cover(stream) -> bool:
    """True for the picture on an audio file's cover, and for streams of unknown codec or size."""
    pictures = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    if stream.codec_context is None or not (stream.width and stream.height):
        return True
    return bool(stream.disposition & pictures)


def _demux(container, stream) -> tuple[list[PacketRecord], bool]:
    """(every packet of the stream in decoding order, False if the demuxer stopped at an error)."""
    is_vp8 = stream.codec_context.codec.canonical_name == "vp8"
    packets = []
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            # VP8 keeps invisible reference frames in packets of their own: bit 4 of the first byte is show_frame
            is_shown = not packet.is_discard and not (is_vp8 and not bytes(packet)[0] & 0x10)
            packets.append(PacketRecord(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, is_shown))
    except av.FFmpegError:
        return packets, False
    return packets, True


def _announced_end(stream, whole_s: float, is_complete: bool) -> float | None:
    """Up to which time in seconds the header announces frames; None if it doesn't say or needn't be asked.

    MP4 is asked only when the file is known to be cut short, because edit lists cut too. Matroska, whose demuxer passes
    over damage without a word, states a track's end in a tag; a tag left over from a longer film is past whole_s.
    """
    if stream.duration and not is_complete:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")
    minutes, _, seconds = rest.partition(":")
    try:
        end_s = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return whole_s if whole_s and not is_complete else None
    return end_s if end_s <= whole_s + 1 else None


def _decode_head(path: str, stream_index: int, packets: Sequence[PacketRecord]):
    """(the first frame that can be decoded, times of the frames shown up to the first key frame; None if unknown)."""
    known = {packet.pts for packet in packets if packet.is_shown}
    first_key = next((packet.pts for packet in packets if packet.is_key), packets[0].pts)
    first, decoded = None, set()
    with open_container(path) as container:
        stream = select_stream(container, stream_index)
        for frame in decode_tolerantly(container, stream):
            first = frame if first is None else first
            if frame.pts not in known:
                return first, None
            decoded.add(frame.pts)
            if first_key is None or frame.pts >= first_key:
                return first, decoded
    if first is None:
        raise VideoError(path, "not a single frame can be decoded (damaged, cut off, or encrypted)")
    return first, decoded


def _without_undecodable_lead(packets: list[PacketRecord], decoded: set[int]) -> list[PacketRecord]:
    """Marks as not shown what a viewer never sees: pictures that lean on frames from before the start of the file."""
    first_key = next((packet.pts for packet in packets if packet.is_key), None)
    if first_key is None:
        return packets
    return [
        packet._replace(is_shown=packet.is_shown and (packet.pts in decoded or (packet.pts or 0) >= first_key))
        for packet in packets
    ]


def _count_frames(path: str, stream_index: int, time_base: Fraction) -> tuple[list[float | None], list[int]]:
    """Decodes everything once, keeping nothing: (time of each frame, numbers of the corrupt ones)."""
    stamps: list[float | None] = []
    corrupt: list[int] = []
    with open_container(path) as container:
        for frame in decode_tolerantly(container, select_stream(container, stream_index)):
            if frame.is_corrupt:
                corrupt.append(len(stamps))
            stamps.append(None if frame.pts is None else float(frame.pts * time_base))
    return stamps, corrupt


def decode_tolerantly(container, stream):
    """Yields every frame from where the container stands, on one thread, passing over packets that fail."""
    stream.codec_context.thread_count = 1
    packets, is_last = container.demux(stream), False
    while not is_last:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            packet = None
        is_last = packet is None or packet.size == 0  # an empty packet empties the decoder
        try:
            frames = stream.codec_context.decode(packet)
        except av.FFmpegError:
            continue
        yield from frames


def display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int] | None:
    """(a, b, c, d) of the display matrix: a point (x, y) is shown at (a x + c y, b x + d y); None if there is none."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    values = np.frombuffer(cast(bytes, data), np.int32)
    return int(values[0]), int(values[1]), int(values[3]), int(values[4])


def orientation(matrix: tuple[int, int, int, int] | None) -> tuple[int, bool]:
    """(quarter turns anticlockwise, mirrored first), the nearest to what the matrix asks for."""
    if matrix is None:
        return 0, False
    a, b, c, d = (value / _FULL_TURN for value in matrix)
    is_mirrored = a * d - b * c < 0
    if is_mirrored:
        a, b = -a, -b  # undo the exchange of left and right: what is left is a turn
    return round(float(np.degrees(np.arctan2(-b, a))) / 90) % 4, is_mirrored
