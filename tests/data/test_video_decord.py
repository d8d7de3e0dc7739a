"""decord, where it is allowed: the same bits as PyAV. Where it isn't, it is refused; without it, nothing is missing.

Source: ours.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.data.clips import (
    CLIPS,
    Clip,
    decode_sequentially,
    make_clip,
    make_two_streams,
    with_display_matrix,
    with_first_frames_cut,
    with_zeros,
)
from vxlpro_jax.data.video_container import examine_file
from vxlpro_jax.data.video_decode import VideoError, open_video
from vxlpro_jax.data.video_decord import why_decord_is_not_exact

CLIP_NAMED = {clip.name: clip for clip in CLIPS}
HAS_DECORD = importlib.util.find_spec("decord") is not None  # it has no wheel for some machines
EXACT = (
    *("h264_short_groups.mp4", "h264_long_groups.mp4", "h264_no_b.mp4"),
    *("h264_variable.mp4", "h264_variable.mkv", "h264_fragmented.mp4", "h264_moov_first.mp4"),
    *("h264_start_offset.mp4", "h264_start_offset.mkv", "vp8_hidden.webm", "vp9_hidden.webm", "mjpeg.mov"),
)


@pytest.mark.parametrize("name", EXACT if HAS_DECORD else [])
def test_same_bits_as_the_plain_loop(tmp_path: Path, name: str) -> None:
    """In sequence, sparsely and shuffled."""
    path = make_clip(CLIP_NAMED[name], tmp_path)
    truth = decode_sequentially(path)
    with open_video(path, decoder="decord") as video:
        assert video.decoder == "decord"
        for order in (range(len(truth)), range(5, len(truth), 19), [90, 3, 3, 50, 4, 119, 0]):
            assert np.array_equal(video.read(list(order)), truth[list(order)])


@pytest.mark.parametrize("clip", [clip for clip in CLIPS if clip.name not in EXACT], ids=lambda clip: clip.name)
def test_refused_where_it_is_wrong(tmp_path: Path, clip: Clip) -> None:
    """By what the container says, before decord is even imported."""
    path = make_clip(clip, tmp_path)
    if clip.name == "h264_intra_refresh.mp4":
        return  # decord is exact there, or disagrees about times; nothing in the container tells
    assert why_decord_is_not_exact(examine_file(path)) is not None
    with pytest.raises(VideoError, match="decord is not exact here"):
        open_video(path, decoder="decord")


def test_refused_for_edits_mirrors_and_several_streams(tmp_path: Path) -> None:
    """Each reason is named."""
    source = make_clip(CLIP_NAMED["h264_short_groups.mp4"], tmp_path)
    for path, said in (
        (with_first_frames_cut(source, tmp_path / "edit.mp4", 5), "edit list"),
        (with_display_matrix(source, tmp_path / "mirror.mp4", (-1, 0, 0, 1)), "mirrored"),
        (make_two_streams(tmp_path / "two.mp4"), "several video streams"),
    ):
        with pytest.raises(VideoError, match=said):
            open_video(path, decoder="decord")


@pytest.mark.parametrize("quarter", [(0, 1, -1, 0)] if HAS_DECORD else [])
def test_turns_as_pyav_does(tmp_path: Path, quarter) -> None:
    """decord turns frames by itself."""
    source = make_clip(CLIP_NAMED["h264_short_groups.mp4"], tmp_path)
    path = with_display_matrix(source, tmp_path / "turned.mp4", quarter)
    with open_video(path) as one, open_video(path, decoder="decord") as other:
        assert np.array_equal(one.read([3, 77]), other.read([3, 77]))


def test_where_decord_fails_pyav_judges(tmp_path: Path) -> None:
    """A group of zeros: the loss is named, not thrown."""
    if not HAS_DECORD:
        return
    import av

    source = make_clip(CLIP_NAMED["h264_short_groups.mp4"], tmp_path)
    with av.open(str(source)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    path = with_zeros(source, tmp_path / "damaged.mp4", places[24][0], places[35][0] - places[24][0])
    with open_video(path, decoder="decord") as video:
        good = video.read(range(120), on_damage="skip")
    assert set(good.lost) >= set(range(24, 34))
    assert np.array_equal(good.frames, decode_sequentially(source)[good.indices])


def test_everything_works_without_decord(tmp_path: Path) -> None:
    """In a process where importing it fails: PyAV reads; asking for decord is a VideoError that says so."""
    path = make_clip(CLIP_NAMED["h264_short_groups.mp4"], tmp_path)
    program = (
        "import sys\n"
        "sys.modules['decord'] = None\n"
        "from vxlpro_jax.data.video_decode import VideoError, open_video\n"
        "print(open_video(sys.argv[1]).read([5, 100]).shape)\n"
        "try:\n"
        "    open_video(sys.argv[1], decoder='decord')\n"
        "except VideoError as error:\n"
        "    print(error.reason)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["(2, 48, 64, 3)", "decord is not installed; use decoder='pyav'"]
    assert done.stderr == ""
