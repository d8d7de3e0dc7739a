"""Pictures as video: folders, lists, single files, and the traps of picture files.

Source: ours.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.clips import HEIGHT, WIDTH, numbered_frame, numbers_of
from vxlpro_jax.data import image_folder
from vxlpro_jax.data.video_decode import VideoError, open_video


def save_numbered(folder: Path, names: list[str]) -> list[Path]:
    """Pictures 0, 1, ... under these names."""
    paths = [folder / name for name in names]
    for number, path in enumerate(paths):
        Image.fromarray(numbered_frame(number)).save(path)
    return paths


def test_folder_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    """2 before 10, whatever else lies there; times are index / fps, or as given."""
    save_numbered(tmp_path, ["frame1.png", "frame2.jpg", "frame10.png", "frame11.bmp"])
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_text("no picture either")
    with open_video(tmp_path, fps=2.0) as video:
        assert (video.num_frames, video.height, video.width) == (4, HEIGHT, WIDTH)
        assert video.times_s.tolist() == [0, 0.5, 1.0, 1.5] and video.duration_s == 2.0
        assert numbers_of(video.read([3, 0, 1, 2, 2])) == [3, 0, 1, 2, 2]
    assert open_video(tmp_path).times_s.tolist() == [0, 1, 2, 3]
    assert open_video(tmp_path, times_s=[0, 1, 5, 9]).times_s.tolist() == [0, 1, 5, 9]
    with pytest.raises(VideoError, match="one finite number per frame"):
        open_video(tmp_path, times_s=[0, 1])
    with pytest.raises(VideoError, match="fps=0"):
        open_video(tmp_path, fps=0)


def test_list_keeps_its_order(tmp_path: Path) -> None:
    """A list of paths or strings, repeats allowed; what is missing is named."""
    paths = save_numbered(tmp_path, ["a.png", "b.png", "c.png"])
    video = open_video([paths[2], str(paths[0]), paths[2]])
    assert numbers_of(video.read([0, 1, 2])) == [2, 0, 2]
    with pytest.raises(VideoError, match="1 of its images don't exist.*d.png"):
        open_video([paths[0], tmp_path / "d.png"])
    with pytest.raises(VideoError, match="no images"):
        open_video([])


def test_single_picture_whatever_its_name(tmp_path: Path) -> None:
    """Recognised by content."""
    Image.fromarray(numbered_frame(77)).save(tmp_path / "photo", format="PNG")
    video = open_video(tmp_path / "photo")
    assert (video.num_frames, video.times_s.tolist(), video.duration_s) == (1, [0.0], 1.0)
    assert numbers_of(video.read([0])) == [77]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    """Size and pixels as a viewer sees them, all eight orientations."""
    picture = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    shown = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture, -1),
        7: np.rot90(picture.transpose(1, 0, 2), 2),
        8: np.rot90(picture),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(tmp_path / "photo.png", exif=exif)
    video = open_video(tmp_path / "photo.png")
    assert (video.height, video.width) == shown.shape[:2]
    assert np.array_equal(video.read([0])[0], shown)


def test_every_kind_of_pixel_becomes_rgb(tmp_path: Path) -> None:
    """Transparent parts on white, palettes, grey, 16 bits, black and white, CMYK."""
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[0, 0] = (200, 100, 50, 255)
    clear[1, 1] = (0, 0, 0, 128)
    Image.fromarray(clear).save(tmp_path / "rgba.png")
    frame = open_video(tmp_path / "rgba.png").read([0])[0]
    assert frame[0, 0].tolist() == [200, 100, 50] and frame[2, 2].tolist() == [255, 255, 255]
    assert abs(int(frame[1, 1, 0]) - 127) <= 1
    palette = Image.fromarray(np.eye(4, dtype=np.uint8), mode="P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "palette.png", transparency=0)
    frame = open_video(tmp_path / "palette.png").read([0])[0]
    assert frame[0, 0].tolist() == [40, 50, 60] and frame[0, 1].tolist() == [255, 255, 255]
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "deep.png")
    assert np.all(open_video(tmp_path / "deep.png").read([0]) == 40_000 // 257)
    for mode in ("L", "1", "CMYK"):
        Image.new("RGB", (4, 4), "white").convert(mode).save(tmp_path / f"{mode}.tiff")
        assert np.all(open_video(tmp_path / f"{mode}.tiff").read([0]) == 255), mode


def test_sizes_must_agree(tmp_path: Path) -> None:
    """The frames of a video have one size; the error names two files that differ."""
    save_numbered(tmp_path, ["a.png", "b.png"])
    Image.new("RGB", (10, 12)).save(tmp_path / "c.png")
    with pytest.raises(VideoError, match="a.png is 64x48, c.png 10x12"):
        open_video(tmp_path)


def test_damaged_picture_is_a_lost_frame(tmp_path: Path) -> None:
    """One cut off in its pixels, one that is text; all damaged: an error at opening."""
    paths = save_numbered(tmp_path, ["a.png", "b.png", "c.png", "d.png"])
    paths[1].write_bytes(paths[1].read_bytes()[:80])
    paths[2].write_text("no picture")
    good = open_video(tmp_path).read([3, 2, 1, 0], on_damage="skip")
    assert numbers_of(good.frames) == [3, 0] and good.lost == (1, 2)
    for path in paths:
        path.write_text("no picture")
    with pytest.raises(VideoError, match="none of its 4 images"):
        open_video(tmp_path)


def test_huge_picture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its pixels are decoded; a header may claim any size."""
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    with pytest.raises(VideoError, match="at most 134217728 pixels|too large to decode"):
        open_video(tmp_path / "huge.png")
    monkeypatch.setattr(image_folder, "MAX_PIXELS", 100)
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    with pytest.raises(VideoError, match="at most 100 are read"):
        open_video(tmp_path / "small.png")
