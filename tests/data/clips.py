"""Small clips of every codec and container with the frame's number written in its pixels, made through PyAV.

Source: ours. The traps: B-frames, open groups, edit lists, odd clocks, invisible frames.
"""

import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

HEIGHT, WIDTH = 48, 64
_ROWS, _COLUMNS = 2, 4  # eight black or white blocks: the bits of the number, the lowest first
FPS = 25


@dataclass(frozen=True)
class Clip:
    """How one clip is made."""

    name: str  # file name; its suffix chooses the container
    codec: str
    num_frames: int = 120
    options: dict[str, str] = field(default_factory=dict)
    pixel_format: str = "yuv420p"
    container_options: dict[str, str] = field(default_factory=dict)
    first_tick: int = 0  # time of the first frame, in frames
    is_variable: bool = False
    height: int = HEIGHT
    width: int = WIDTH

    @property
    def ticks(self) -> list[int]:
        """Presentation times in units of 1/FPS seconds."""
        steps = [1 + (number * 7 % 5) * self.is_variable for number in range(self.num_frames - 1)]
        return [self.first_tick, *(self.first_tick + np.cumsum(steps)).tolist()]

    @property
    def times_s(self) -> np.ndarray:
        """Expected times_s of the video."""
        return (np.array(self.ticks) - self.ticks[0]) / FPS


_X264_SHORT = {"g": "12", "bf": "3", "preset": "fast", "sc_threshold": "0"}
_X264_OPEN = {"sc_threshold": "0", "x264-params": "open-gop=1:keyint=20:min-keyint=20:bframes=3"}
_X265_OPEN = {"preset": "fast", "x265-params": "keyint=20:min-keyint=20:bframes=4:open-gop=1:scenecut=0:log-level=none"}
CLIPS = (
    Clip("h264_short_groups.mp4", "libx264", options=_X264_SHORT),
    Clip("h264_long_groups.mp4", "libx264", 200, {"g": "150", "bf": "3", "sc_threshold": "0"}),
    Clip("h264_no_b.mp4", "libx264", options={"g": "30", "bf": "0"}),
    Clip("h264_open_groups.mp4", "libx264", options=_X264_OPEN),
    Clip("h264_open_groups.mkv", "libx264", options=_X264_OPEN),
    Clip(
        "h264_intra_refresh.mp4",
        "libx264",
        options={"sc_threshold": "0", "x264-params": "intra-refresh=1:keyint=20:bframes=0"},
    ),
    Clip("h264_10bit.mp4", "libx264", options=_X264_SHORT, pixel_format="yuv420p10le"),
    Clip("h264_444.mkv", "libx264", options=_X264_SHORT, pixel_format="yuv444p"),
    Clip("h264_variable.mp4", "libx264", options=_X264_SHORT, is_variable=True),
    Clip("h264_variable.mkv", "libx264", options=_X264_SHORT, is_variable=True),
    Clip(
        "h264_fragmented.mp4",
        "libx264",
        options=_X264_SHORT,
        container_options={"movflags": "frag_keyframe+empty_moov+default_base_moof"},
    ),
    Clip("h264_moov_first.mp4", "libx264", options=_X264_SHORT, container_options={"movflags": "faststart"}),
    Clip("h264_start_offset.mp4", "libx264", options=_X264_SHORT, first_tick=77),
    Clip("h264_start_offset.mkv", "libx264", options=_X264_SHORT, first_tick=77),
    Clip("h264.ts", "libx264", options=_X264_SHORT, first_tick=30),
    Clip("h264.flv", "libx264", options=_X264_SHORT),
    Clip("h264.avi", "libx264", options=_X264_SHORT),
    Clip("h264_no_container.h264", "libx264", options=_X264_SHORT),
    Clip("h264_odd_size.mp4", "libx264", options=_X264_SHORT, pixel_format="yuv444p", height=49, width=67),
    Clip("hevc_open_groups.mp4", "libx265", options=_X265_OPEN),
    Clip("hevc_open_groups.mkv", "libx265", options=_X265_OPEN),
    Clip("hevc.ts", "libx265", options=_X265_OPEN),
    Clip("mpeg4_b.mp4", "mpeg4", options={"g": "20", "bf": "2"}),
    Clip("mpeg4_b.avi", "mpeg4", options={"g": "20", "bf": "2"}),
    Clip("mpeg2.mp4", "mpeg2video", options={"g": "15", "bf": "2"}),
    Clip("mpeg2.ts", "mpeg2video", options={"g": "15", "bf": "2"}),
    Clip("mpeg2.mpg", "mpeg2video", options={"g": "15", "bf": "2"}),
    Clip("vp8_hidden.webm", "libvpx", options={"g": "30", "auto-alt-ref": "1", "lag-in-frames": "16", "crf": "10"}),
    Clip(
        "vp9_hidden.webm",
        "libvpx-vp9",
        options={"g": "30", "auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"},
    ),
    Clip("av1.mkv", "libsvtav1", options={"g": "30", "preset": "12", "crf": "15", "svtav1-params": "lp=1"}),
    Clip("av1.mp4", "libsvtav1", options={"g": "30", "preset": "12", "crf": "15", "svtav1-params": "lp=1"}),
    Clip("mjpeg.mov", "mjpeg", pixel_format="yuvj420p"),
    Clip("mjpeg.avi", "mjpeg", pixel_format="yuvj420p"),
    Clip("variable.gif", "gif", pixel_format="rgb8", is_variable=True),
)


def numbered_frame(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """uint8 [height, width, 3]; numbers up to 255."""
    bits = [(number >> bit) & 1 for bit in range(_ROWS * _COLUMNS)]
    rows, columns = np.arange(height) * _ROWS // height, np.arange(width) * _COLUMNS // width
    grey = np.array(bits, np.uint8).reshape(_ROWS, _COLUMNS)[rows[:, None], columns[None, :]] * 255
    return np.repeat(grey[..., None], 3, axis=2)


def number_of(frame: np.ndarray) -> int:
    """The number written in a frame, whatever a lossy codec made of it."""
    blocks = [
        block[block.shape[0] // 4 : -block.shape[0] // 4, block.shape[1] // 4 : -block.shape[1] // 4].mean()
        for half in np.array_split(frame, _ROWS)
        for block in np.array_split(half, _COLUMNS, axis=1)
    ]
    return sum(1 << bit for bit, brightness in enumerate(blocks) if brightness > 127)


def numbers_of(frames: np.ndarray) -> list[int]:
    """The numbers written in frames."""
    return [number_of(frame) for frame in frames]


def make_clip(clip: Clip, folder: Path) -> Path:
    """Encodes it unless it is there already."""
    path = folder / clip.name
    if path.exists():
        return path
    with av.open(str(path), "w", options=clip.container_options) as container:
        stream = container.add_stream(clip.codec, rate=FPS, options=clip.options)
        stream.height, stream.width, stream.pix_fmt = clip.height, clip.width, clip.pixel_format
        stream.codec_context.time_base = Fraction(1, FPS)
        for number, tick in enumerate(clip.ticks):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, clip.height, clip.width), format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def make_two_streams(path: Path, num_frames: int = 30) -> Path:
    """A small stream first, a large one second, and sound: the second is the video (numbers count from 100 there)."""
    with av.open(str(path), "w") as container:
        small = container.add_stream("libx264", rate=FPS, options=_X264_SHORT)
        small.height, small.width, small.pix_fmt = 32, 32, "yuv420p"
        large = container.add_stream("libx264", rate=FPS, options=_X264_SHORT)
        large.height, large.width, large.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        sound = container.add_stream("aac", rate=8000, layout="mono")
        for number in range(num_frames):
            container.mux(small.encode(av.VideoFrame.from_ndarray(numbered_frame(number, 32, 32), format="rgb24")))
            container.mux(large.encode(av.VideoFrame.from_ndarray(numbered_frame(number + 100), format="rgb24")))
        container.mux(sound.encode(_silence(1024)))
        for stream in (small, large, sound):
            container.mux(stream.encode())
    return path


def make_sound_only(path: Path) -> Path:
    """A second of silence."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        for start in range(0, 8192, 1024):
            container.mux(sound.encode(_silence(1024, start)))
        container.mux(sound.encode())
    return path


def _silence(num_samples: int, start: int = 0) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, num_samples), np.float32), format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 8000, start
    return frame


def with_display_matrix(source: Path, path: Path, matrix: Sequence[int]) -> Path:
    """A copy of an mp4 file whose track header shows it by the matrix (a, b, c, d)."""
    content = bytearray(source.read_bytes())
    start = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def with_first_frames_cut(source: Path, path: Path, num_cut: int) -> Path:
    """A copy of an mp4 file whose edit list begins num_cut frames later: these are decoded but never shown."""
    content = bytearray(source.read_bytes())
    edit = content.index(b"elst") + 4
    media = content.index(b"mdhd") + 4
    if content[edit] != 0 or content[media] != 0:
        raise ValueError(f"{source}: 64-bit edit list or media header, expected 32 bits")
    (timescale,) = struct.unpack_from(">I", content, media + 12)
    duration, media_time = struct.unpack_from(">Ii", content, edit + 8)
    (movie_scale,) = struct.unpack_from(">I", content, content.index(b"mvhd") + 4 + 12)
    struct.pack_into(
        ">Ii",
        content,
        edit + 8,
        duration - num_cut * movie_scale // FPS,
        media_time + num_cut * timescale // FPS,
    )
    path.write_bytes(content)
    return path


def with_zeros(source: Path, path: Path, start: int, length: int) -> Path:
    """A copy with a stretch of zeros in it."""
    shutil.copy(source, path)
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(bytes(length))
    return path


def with_hidden_frame(source: Path, path: Path, number: int) -> Path:
    """A copy of a VP8 clip in which one frame is decoded but, by its own header, not shown."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for position, packet in enumerate(packet for packet in old.demux(video=0) if packet.size):
            content = bytearray(bytes(packet))
            content[0] &= 0xFF - 0x10 * (position == number)  # bit 4: show_frame
            changed = av.Packet(bytes(content))
            changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
            changed.is_keyframe, changed.stream = packet.is_keyframe, stream
            new.mux(changed)
    return path


def decode_sequentially(path: Path) -> np.ndarray:
    """uint8 [N, H, W, 3] by PyAV's plain loop over the largest stream: what is held to be true."""
    with av.open(str(path)) as container:
        stream = max(container.streams.video, key=lambda stream: stream.width * stream.height)
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
