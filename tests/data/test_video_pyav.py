"""Damage is found, named and outlived; a truncated file is a short video with its losses named, or a clear error.

Source: ours; ../shared/videos/README.md for corrupted.mp4.
"""

import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import SHARED
from tests.data.clips import CLIPS, Clip, decode_sequentially, make_clip, with_zeros
from vxlpro_jax.data.video_container import examine_file
from vxlpro_jax.data.video_decode import VideoError, open_video
from vxlpro_jax.data.video_pyav import PyavReader

CLIP_NAMED = {clip.name: clip for clip in CLIPS}
VIDEO_FOLDERS = [folder for folder in (SHARED / "videos", Path(__file__).parent.parent / "videos") if folder.is_dir()]


def packet_places(path: Path) -> list[tuple[int, int]]:
    """(byte offset, size) of every video packet."""
    import av

    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize("name", ["h264_short_groups.mp4", "h264_open_groups.mp4", "mpeg4_b.mp4", "av1.mp4"])
@pytest.mark.parametrize("hit", [25, 30, 61])
def test_damage_in_the_middle_is_named(tmp_path: Path, name: str, hit: int) -> None:
    """A packet becomes zeros: its group is reported from there on, all else is read bit for bit, in whatever order."""
    source = make_clip(CLIP_NAMED[name], tmp_path)
    truth = decode_sequentially(source)
    start, size = packet_places(source)[hit]
    path = with_zeros(source, tmp_path / "damaged.mp4", start, size)
    everything = range(len(truth))
    with open_video(path) as video:
        assert video.num_frames == len(truth)
        good = video.read(everything, on_damage="skip")
    assert 1 <= len(good.lost) <= 31
    assert sorted([*good.indices, *good.lost]) == list(everything)
    assert min(abs(index - hit) for index in good.lost) <= 4, "the loss lies where the damage is"
    assert np.array_equal(good.frames, truth[good.indices])
    with open_video(path) as video, pytest.raises(VideoError, match="damaged or cut short") as caught:
        video.read(everything)
    assert caught.value.lost == good.lost
    assert pickle.loads(pickle.dumps(caught.value)).lost == good.lost
    order = [119, *good.lost[:3], 5, good.lost[-1], 5, 0, 100]
    with open_video(path) as video:
        again = video.read(order, on_damage="skip")
        assert set(again.lost) == set(order) & set(good.lost)
        assert [order[position] for position in again.positions] == again.indices.tolist()
        assert np.array_equal(again.frames, truth[again.indices])
        with pytest.raises(VideoError):
            list(video.read_chunks(order, chunk_len=2))
        lost = [index for chunk in video.read_chunks(order, 2, on_damage="skip") for index in chunk.lost]
        assert lost == sorted(again.lost)


@pytest.mark.parametrize("name, kept", [("h264_short_groups.mp4", 0.5), ("av1.mp4", 0.5), ("av1.mp4", 0.0)])
def test_lost_frame_is_lost_even_when_asked_for_alone(tmp_path: Path, name: str, kept: float) -> None:
    """A frame that leans on damage comes out of the decoder without a complaint of its own, before or after it."""
    source = make_clip(CLIP_NAMED[name], tmp_path)
    truth = decode_sequentially(source)
    for hit in (25, 61):
        start, size = packet_places(source)[hit]
        path = with_zeros(source, tmp_path / "damaged.mp4", start + int(kept * size), size - int(kept * size))
        with open_video(path) as video:
            lost = video.read(range(120), on_damage="skip").lost
        assert lost
        for index in range(lost[0] - 4, lost[0] + 8):
            with open_video(path) as video:
                alone = video.read([index], on_damage="skip")
            assert (index in alone.lost) == (index in lost), index
            assert alone.lost or np.array_equal(alone.frames[0], truth[index])


@pytest.mark.parametrize("name", ["h264_moov_first.mp4", "h264_open_groups.mkv", "hevc_open_groups.mkv", "av1.mkv"])
@pytest.mark.parametrize("share", [0.6, 0.95])
def test_cut_short_file_names_what_is_missing(tmp_path: Path, name: str, share: float) -> None:
    """The header tells how long it was: what is there is read, what is not is lost, and indices stay what they were."""
    source = make_clip(CLIP_NAMED[name], tmp_path)
    truth = decode_sequentially(source)
    path = tmp_path / f"cut_{name}"
    path.write_bytes(source.read_bytes()[: int(share * source.stat().st_size)])
    with open_video(path) as video:
        assert video.num_frames == len(truth) and not video.is_whole
        np.testing.assert_allclose(video.times_s, CLIP_NAMED[name].times_s, atol=1e-3)
        good = video.read(range(len(truth)), on_damage="skip")
        assert good.lost and good.lost[-1] == len(truth) - 1
        assert len(good.frames) > 0 and np.array_equal(good.frames, truth[good.indices])
        with pytest.raises(VideoError) as caught:
            video.read([0, len(truth) - 1])
        assert caught.value.lost == (len(truth) - 1,)


def test_cut_short_file_that_announces_nothing_is_still_known(tmp_path: Path) -> None:
    """A fragmented MP4 doesn't say how long it will be, but its last fragment is seen to be incomplete."""
    source = make_clip(CLIP_NAMED["h264_fragmented.mp4"], tmp_path)
    path = tmp_path / "cut.mp4"
    path.write_bytes(source.read_bytes()[: int(0.6 * source.stat().st_size)])
    with open_video(path) as video:
        assert not video.is_whole and 0 < video.num_frames < 120
        good = video.read(range(video.num_frames), on_damage="skip")
        assert np.array_equal(good.frames, decode_sequentially(source)[good.indices])


def test_file_without_its_table_is_refused(tmp_path: Path) -> None:
    """An MP4 whose table of contents stood at the cut-off end."""
    source = make_clip(CLIP_NAMED["h264_short_groups.mp4"], tmp_path)
    path = tmp_path / "cut.mp4"
    path.write_bytes(source.read_bytes()[:3000])
    with pytest.raises(VideoError, match="cut short"):
        open_video(path)


def test_variable_rate_is_not_taken_for_loss(tmp_path: Path) -> None:
    """Uneven steps, late starts and edit lists are no damage: only what the header promises can be missing."""
    for clip in CLIPS:
        file = examine_file(make_clip(clip, tmp_path))
        assert file.is_whole and file.table.lost == frozenset(), clip.name


def test_damage_costs_one_group_not_the_file(tmp_path: Path) -> None:
    """With 10 groups of 12 frames and one broken in each of two, the other eight are whole."""
    source = make_clip(CLIP_NAMED["h264_short_groups.mp4"], tmp_path)
    places = packet_places(source)
    path = tmp_path / "damaged.mp4"
    content = bytearray(source.read_bytes())
    for hit in (26, 74):
        content[places[hit][0] : sum(places[hit])] = bytes(places[hit][1])
    path.write_bytes(content)
    with open_video(path) as video:
        lost = video.read(range(120), on_damage="skip").lost
    assert {index // 12 for index in lost} == {2, 6}


def test_seek_saves_decoding(tmp_path: Path) -> None:
    """A frame far off costs its group, not the whole way there; the frame after it costs next to nothing."""
    file = examine_file(make_clip(CLIP_NAMED["h264_short_groups.mp4"], tmp_path))
    reader = PyavReader(file)
    fed = []
    plain = reader._run.pump
    reader._run.pump = lambda: fed.append(1) or plain()
    list(reader.frames([100]))
    assert len(fed) <= 30
    fed.clear()
    list(reader.frames([101]))
    assert len(fed) <= 4
    reader.close()


def test_key_frames_that_are_none_are_found_out(tmp_path: Path) -> None:
    """Periodic intra refresh marks frames as key frames that lean on earlier ones: reading begins at the beginning."""
    file = examine_file(make_clip(CLIP_NAMED["h264_intra_refresh.mp4"], tmp_path))
    assert len(file.table.key_positions) > 1
    reader = PyavReader(file)
    ((_, frame),) = reader.frames([70])
    assert np.array_equal(frame, decode_sequentially(Path(file.path))[70])


def test_transparent_frames_are_shown_on_white(tmp_path: Path) -> None:
    """A gif with a transparent corner, through the same reader as any video; its durations are its times."""
    from PIL import Image

    pictures = []
    for grey in (0, 90, 180):
        picture = Image.new("RGBA", (WIDTH_GIF, 20), (grey, 0, 0, 255))
        picture.paste((0, 0, 0, 0), (0, 0, 8, 8))
        pictures.append(picture)
    path = tmp_path / "alpha.gif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[200, 500, 1000], disposal=2, loop=0)
    with open_video(path) as video:
        np.testing.assert_allclose(video.times_s, [0, 0.2, 0.7])
        assert video.duration_s == pytest.approx(1.7)
        frames = video.read([0, 1, 2])
    assert np.all(frames[:, :8, :8] == 255)
    np.testing.assert_allclose(frames[:, 12, 12, 0], [0, 90, 180], atol=8)
    assert np.all(frames[:, 12:, 12:, 1:] < 8)


WIDTH_GIF = 30


@pytest.mark.parametrize("name", ["corrupted.mp4"] if VIDEO_FOLDERS else [])
def test_real_damaged_clip(name: str) -> None:
    """28 of 50 frames can be shown; the rest is reported."""
    with open_video(VIDEO_FOLDERS[0] / name) as video:
        assert video.num_frames == 50
        good = video.read(range(50), on_damage="skip")
        assert good.indices.tolist() == list(range(28)) and good.lost == tuple(range(28, 50))
        with pytest.raises(VideoError) as caught:
            video.read([40, 3, 30])
        assert caught.value.lost == (30, 40)
        assert np.array_equal(video.read([27, 0]), good.frames[[27, 0]])


def test_size_that_changes_on_the_way(tmp_path: Path) -> None:
    """Frames are brought to the size of the first."""
    first = make_clip(Clip("small.h264", "libx264", 10, {"bf": "0"}, height=32, width=48), tmp_path)
    second = make_clip(Clip("large.h264", "libx264", 10, {"bf": "0"}, height=64, width=96), tmp_path)
    path = tmp_path / "joined.h264"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    with open_video(path) as video:
        assert (video.num_frames, video.height, video.width) == (20, 32, 48)
        assert video.read(range(20)).shape == (20, 32, 48, 3)
        assert np.all(np.diff(video.times_s) > 0)
