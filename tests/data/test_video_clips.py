"""A folder of somebody's own files as clips: what is read, what is left out, what is said."""

import shutil

import numpy as np
import pytest
from PIL import Image

from vxlpro_jax.data.image_transforms import stretch
from vxlpro_jax.data.synthetic import sample_video
from vxlpro_jax.data.synthetic_files import write_video
from vxlpro_jax.data.synthetic_render import render_frames
from vxlpro_jax.data.video_clips import folder_sources
from vxlpro_jax.data.video_records import VideoError

VIDEO = sample_video(3, 0, length_s=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "deeper").mkdir()
    write_video(VIDEO, folder / "deeper" / "a.mp4", size=(56, 56))
    Image.fromarray(render_frames(VIDEO, np.array([5.0]), (40, 60))[0]).save(folder / "b.png")
    (folder / "c.mp4").write_bytes(b"no video")
    (folder / "notes.txt").write_text("not looked at")
    shutil.copy(folder / "b.png", folder / ".hidden.png")
    return folder


def test_videos_and_pictures_are_found_by_name(folder):
    sources = folder_sources(folder, 4, 1.0, 360, 28)
    assert [(source.name, source.is_image) for source in sources] == [
        ("b.png", True),
        ("c.mp4", False),
        ("deeper/a.mp4", False),
    ]


@pytest.mark.parametrize(("clip_len", "fps", "clips"), [(4, 1.0, 8), (8, 0.5, 2), (8, 0.25, 1), (64, 1.0, 1)])
def test_frames_of_a_video_follow_each_other_in_whole_clips(folder, clip_len, fps, clips):
    found = folder_sources(folder, clip_len, fps, 360, 28)[2].load()
    assert found.shape == (clips, clip_len, 28, 28, 3) and found.dtype == np.uint8
    count = min(round(32 * fps), clips * clip_len)
    times = np.arange(count) / fps
    rendered = stretch(render_frames(VIDEO, times, (56, 56)), 28)
    frames = found.reshape(-1, 28, 28, 3)
    assert np.abs(frames[:count].astype(int) - rendered).mean() < 6  # the codec's part
    assert (frames[count:] == frames[count - 1]).all()


def test_frames_are_bounded(folder):
    assert len(folder_sources(folder, 4, 1.0, 8, 28)[2].load()) == 2


def test_a_picture_is_a_clip_of_one_frame_and_a_broken_file_says_why(folder):
    picture, broken, _ = folder_sources(folder, 4, 1.0, 360, 28)
    assert picture.load().shape == (1, 1, 28, 28, 3)
    with pytest.raises(VideoError, match="c.mp4"):
        broken.load()


def test_a_folder_without_videos_is_told_what_is_accepted(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ValueError, match=r"no videos or pictures in it; .*\.mp4.*config.data.folder"):
        folder_sources(tmp_path, 4, 1.0, 360, 28)
