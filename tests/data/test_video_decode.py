"""Exact frames: every codec and container, however they are read, equal to the plain loop bit by bit.

Source: ours; what is stated of real clips is from ../shared/videos/README.md.
"""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import SHARED
from tests.data.clips import (
    CLIPS,
    HEIGHT,
    WIDTH,
    Clip,
    decode_sequentially,
    make_clip,
    make_sound_only,
    make_two_streams,
    numbered_frame,
    numbers_of,
    with_display_matrix,
    with_first_frames_cut,
    with_hidden_frame,
)
from vxlpro_jax.data.video_decode import VideoError, open_frames, open_video

CLIP_NAMED = {clip.name: clip for clip in CLIPS}
TIMELESS = (".avi", ".h264")
REAL_CLIPS = {  # name: frames, height, width, first and last time in s (README.md there)
    "nasa_13013.mp4": (390, 270, 480, 12.98),
    "nasa_13013_rotated.mp4": (17, 480, 270, 0.534),
    "video_90.mov": (3, 568, 320, 0.067),
    "h265_video.mp4": (10, 128, 128, 0.9),
    "av1_video.mkv": (125, 360, 640, 4.96),
    "testsrc2_vp9.webm": (30, 720, 1280, 0.967),
    "h264_10bits.mp4": (30, 200, 200, 0.967),
    "testsrc2_odd_height_and_width_mpeg2.mp4": (10, 81, 121, 0.36),
    "test_non_zero_start.mp4": (12, 112, 200, 8.700 - 8.333),
    "discard_first_keyframe.mp4": (25, 64, 64, 0.96),
}
VIDEO_FOLDERS = [folder for folder in (SHARED / "videos", Path(__file__).parent.parent / "videos") if folder.is_dir()]


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Where this session's clips lie; each is encoded once."""
    return tmp_path_factory.mktemp("clips")


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.name)
def test_reads_what_the_plain_loop_reads(clip: Clip, folder: Path) -> None:
    """In sequence, sparsely, shuffled, repeated, at the ends, and continued after each other."""
    path = make_clip(clip, folder)
    truth = decode_sequentially(path)
    assert numbers_of(truth) == list(range(clip.num_frames)), "the clip itself is broken"
    last = clip.num_frames - 1
    shuffled = random.Random(clip.name).choices(range(clip.num_frames), k=30)
    orders = {
        "in sequence": list(range(clip.num_frames)),
        "sparse": list(range(3, clip.num_frames, 17)),
        "shuffled": shuffled,
        "repeated": [7, 7, 3, 7, 3],
        "ends": [last, 0, last - 1, 1, last],
    }
    for name, order in orders.items():
        with open_video(path) as video:
            assert (video.num_frames, video.height, video.width) == (clip.num_frames, clip.height, clip.width)
            frames = video.read(order)
        assert frames.dtype == np.uint8 and frames.shape == (len(order), clip.height, clip.width, 3)
        assert numbers_of(frames) == order, name
        assert np.array_equal(frames, truth[order]), f"{name}: right numbers, other pixels"
    with open_video(path) as video:  # one video, one frame at a time: seeks forward and back, and keeps its place
        for index in (*shuffled, 40, 41, 42, 41, last, 0):
            assert np.array_equal(video.read([index])[0], truth[index]), index


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.name)
def test_times_are_the_real_ones(clip: Clip, folder: Path) -> None:
    """Counted from the first shown frame, whatever the start and the rate."""
    with open_video(make_clip(clip, folder)) as video:
        np.testing.assert_allclose(video.times_s, clip.times_s, atol=1e-3)
        assert clip.times_s[-1] < video.duration_s <= clip.times_s[-1] + 0.4


def test_opening_decodes_hardly_anything(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One frame at most, for every clip whose packets tell their times."""
    from vxlpro_jax.data import video_container

    decoded = []
    plain = video_container.decode_tolerantly

    def counting(container, stream):
        for frame in plain(container, stream):
            decoded.append(frame)
            yield frame

    monkeypatch.setattr(video_container, "decode_tolerantly", counting)
    for clip in CLIPS:
        decoded.clear()
        open_video(make_clip(clip, folder)).close()
        if not clip.name.endswith(TIMELESS):
            assert len(decoded) <= 1, clip.name


def test_edit_list_hides_frames(folder: Path) -> None:
    """Frames before the edit are decoded for others' sake, neither counted nor shown; times begin after them."""
    source = make_clip(CLIP_NAMED["h264_short_groups.mp4"], folder)
    for num_cut in (1, 5, 12, 30):
        path = with_first_frames_cut(source, folder / f"cut_{num_cut}.mp4", num_cut)
        with open_video(path) as video:
            assert video.num_frames == 120 - num_cut
            assert video.times_s[0] == 0 and video.times_s[1] == pytest.approx(0.04)
            order = [50, 0, 1, 119 - num_cut, 2]
            assert numbers_of(video.read(order)) == [index + num_cut for index in order]
            assert np.array_equal(video.read(range(video.num_frames)), decode_sequentially(path))


def test_frame_hidden_by_its_own_header(folder: Path) -> None:
    """VP8 keeps invisible reference frames in packets of their own."""
    path = with_hidden_frame(make_clip(CLIP_NAMED["vp8_hidden.webm"], folder), folder / "hidden.webm", 40)
    with open_video(path) as video:
        assert video.num_frames == 119
        assert np.array_equal(video.read(range(119)), decode_sequentially(path))
        assert np.array_equal(video.read([100, 40, 39])[1], decode_sequentially(path)[40])


@pytest.mark.parametrize(
    "matrix, shown",
    [
        ((1, 0, 0, 1), lambda x: x),
        ((0, 1, -1, 0), lambda x: np.rot90(x, -1, (1, 2))),  # clockwise
        ((-1, 0, 0, -1), lambda x: np.rot90(x, 2, (1, 2))),
        ((0, -1, 1, 0), lambda x: np.rot90(x, 1, (1, 2))),
        ((-1, 0, 0, 1), lambda x: x[:, :, ::-1]),  # left and right exchanged
        ((1, 0, 0, -1), lambda x: x[:, ::-1]),  # upside down
        ((0, 1, 1, 0), lambda x: x.transpose(0, 2, 1, 3)),
        ((0, -1, -1, 0), lambda x: np.rot90(x.transpose(0, 2, 1, 3), 2, (1, 2))),
    ],
)
def test_shown_as_the_display_matrix_says(folder: Path, matrix, shown) -> None:
    """All eight ways to hold a camera: the point (x, y) is shown at (a x + c y, b x + d y)."""
    source = make_clip(CLIP_NAMED["h264_short_groups.mp4"], folder)
    path = with_display_matrix(source, folder / "turned.mp4", matrix)
    expected = shown(decode_sequentially(source)[[20, 90]])
    with open_video(path) as video:
        assert (video.height, video.width) == expected.shape[1:3]
        assert np.array_equal(video.read([20, 90]), expected)


def test_largest_stream_is_the_video(folder: Path) -> None:
    """Not the first, not the sound."""
    with open_video(make_two_streams(folder / "two.mp4")) as video:
        assert (video.num_frames, video.height, video.width) == (30, HEIGHT, WIDTH)
        assert numbers_of(video.read([0, 29, 15])) == [100, 129, 115]


def test_chunks_cover_what_was_asked(folder: Path) -> None:
    """In ascending order of frames, with places in the list asked for, never more than chunk_len at once."""
    order = [90, 3, 3, 50, 4, 119, 90]
    with open_video(make_clip(CLIP_NAMED["h264_short_groups.mp4"], folder)) as video:
        chunks = list(video.read_chunks(order, chunk_len=3))
        assert [len(chunk.frames) for chunk in chunks] == [3, 3, 1]
        assert np.concatenate([chunk.indices for chunk in chunks]).tolist() == sorted(order)
        for chunk in chunks:
            assert [order[position] for position in chunk.positions] == chunk.indices.tolist()
            assert numbers_of(chunk.frames) == chunk.indices.tolist() and chunk.lost == ()
        assert list(video.read_chunks([])) == []
        assert video.read([]).shape == (0, HEIGHT, WIDTH, 3)


def test_wrong_requests_are_named(folder: Path) -> None:
    """Indices outside, of another kind, or an unknown way to treat damage."""
    with open_video(make_clip(CLIP_NAMED["h264_short_groups.mp4"], folder)) as video:
        for index in (-1, 120):
            with pytest.raises(IndexError, match=f"frame {index} asked for; there are 0 to 119"):
                video.read([0, index])
        with pytest.raises(TypeError, match="whole frame numbers"):
            video.read([0.5])
        with pytest.raises(ValueError, match="'raise' or 'skip'"):
            video.read([0], on_damage="ignore")
        with pytest.raises(ValueError, match="chunk_len=0"):
            next(video.read_chunks([0], chunk_len=0))
    with pytest.raises(ValueError, match="'pyav' or 'decord'"):
        open_video("x.mp4", decoder="other")


def test_long_videos_are_read_in_bounded_memory(folder: Path) -> None:
    """Streaming 600 frames of 640x480 (550 MB of RGB) through chunks takes a small part of that."""
    path = make_clip(Clip("long.mp4", "libx264", 600, {"preset": "ultrafast"}, height=480, width=640), folder)
    program = (
        "import resource, sys\n"
        "from vxlpro_jax.data.video_decode import open_video\n"
        "video = open_video(sys.argv[1])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "count = sum(len(chunk.frames) for chunk in video.read_chunks(range(600), chunk_len=16))\n"
        "print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    count, grown = map(int, done.stdout.split())
    unit = 1 if sys.platform == "darwin" else 1024
    assert count == 600 and grown * unit < 150 * 2**20


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("empty.mp4", b"", "empty"),
        ("text.mp4", b"This is no video.\n" * 50, "not a video"),
        ("noise.mkv", bytes(random.Random(0).randbytes(5000)), "not a video"),
        ("short.gif", b"GIF89a\x01\x00", "not a"),
        ("photo.jpg", b"\xff\xd8\xff\xe0 cut off", "no video stream"),
    ],
)
def test_what_is_no_video_is_said(tmp_path: Path, capfd, name: str, content: bytes, said: str) -> None:
    """A VideoError with path and reason, and no chatter of FFmpeg on the user's terminal."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(VideoError, match=said) as caught:
        open_video(path)
    assert isinstance(caught.value, ValueError)
    assert caught.value.path == str(path) and str(path) in str(caught.value) and caught.value.reason
    assert capfd.readouterr() == ("", "")


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    """A text, whatever its name, by which FFmpeg would read the files that it names."""
    clip = make_clip(CLIP_NAMED["h264_short_groups.mp4"], tmp_path)
    path = tmp_path / "list.mp4"
    path.write_text(f"ffconcat version 1.0\nfile '{clip.name}'\n")
    with pytest.raises(VideoError, match="playlist"):
        open_video(path)


def test_what_is_not_there_is_said(tmp_path: Path, folder: Path) -> None:
    """Missing, a folder without images, sound only, a pipe, an impossible name, times for a file that has its own."""
    with pytest.raises(VideoError, match="no such file"):
        open_video(tmp_path / "missing.mp4")
    with pytest.raises(VideoError, match="no images"):
        open_video(tmp_path)
    with pytest.raises(VideoError, match="no video stream.*audio"):
        open_video(make_sound_only(tmp_path / "sound.mp4"))
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match="not a regular file"):
        open_video(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match="cannot be read"):
        open_video("x" * 5000)
    with pytest.raises(VideoError, match="times of its own|its own times"):
        open_video(make_clip(CLIP_NAMED["h264_short_groups.mp4"], folder), times_s=[0.0])


def test_array_is_a_video() -> None:
    """Frames with their times, referred to and not copied; anything else is refused."""
    frames = np.stack([numbered_frame(number) for number in range(6)])
    video = open_frames(frames, [0.0, 0.5, 1.0, 1.5, 2.0, 5.0])
    assert (video.num_frames, video.height, video.width, video.duration_s) == (6, HEIGHT, WIDTH, 5.5)
    assert numbers_of(video.read([5, 0, 5])) == [5, 0, 5]
    for wrong in (frames[0], frames.astype(np.float32), frames[..., :1], list(frames), frames[:0]):
        with pytest.raises(VideoError, match="array"):
            open_frames(wrong, [0.0] * len(wrong))
    for times_s in ([0.0], [0, 1, 2, 3, 4, np.nan], [0, 2, 1, 3, 4, 5]):
        with pytest.raises(VideoError, match="one finite number per frame"):
            open_frames(frames, times_s)


@pytest.mark.parametrize("name", [name for name in REAL_CLIPS if VIDEO_FOLDERS])
def test_real_clip(name: str) -> None:
    """Frames, size and times as stated, pixels as the plain loop gives them (turned for two of them)."""
    num_frames, height, width, last_s = REAL_CLIPS[name]
    truth = decode_sequentially(VIDEO_FOLDERS[0] / name)
    if height > truth.shape[1]:
        truth = np.rot90(truth, {"video_90.mov": 3}.get(name, 1), (1, 2))
    with open_video(VIDEO_FOLDERS[0] / name) as video:
        assert (video.num_frames, video.height, video.width) == (num_frames, height, width)
        assert video.times_s[0] == 0 and video.times_s[-1] == pytest.approx(last_s, abs=2e-3)
        order = random.Random(1).sample(range(num_frames), min(num_frames, 12))
        assert np.array_equal(video.read(order), truth[order])


def test_without_pyav_a_video_is_refused_and_frames_are_read(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "vxlpro_jax.data.video_container", None)
    with pytest.raises(VideoError, match="PyAV, which reads video files, cannot be imported"):
        open_video(tmp_path / "a.mp4")
    frames = np.zeros((2, 4, 6, 3), np.uint8)
    assert open_frames(frames, [0.0, 1.0]).read([1]).shape == (1, 4, 6, 3)
