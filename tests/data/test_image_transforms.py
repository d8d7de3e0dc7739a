"""Preprocessing and the views of a picture; PIL's own bicubic is the reference, and golden vectors hold the numbers."""

import numpy as np
import pytest
from PIL import Image

from vxlpro_jax.data.image_transforms import anyres_views, choose_canvas, preprocess, stretch, to_pixels

RNG = np.random.default_rng(0)


def test_frames_are_stretched_and_scaled():
    frames = RNG.integers(0, 256, (2, 30, 50, 3), dtype=np.uint8)
    pixels = preprocess(frames, 16)
    assert pixels.shape == (2, 16, 16, 3) and pixels.dtype == np.float32
    expected = np.asarray(Image.fromarray(frames[1]).resize((16, 16), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(pixels[1], expected / 127.5 - 1, atol=1e-6)
    assert pixels.min() >= -1 and pixels.max() <= 1


def test_frames_of_the_right_size_are_only_scaled():
    frames = np.array([0, 127, 255], np.uint8).repeat(3 * 16).reshape(3, 4, 4, 3)
    pixels = preprocess(frames, 4)
    np.testing.assert_allclose(pixels[:, 0, 0, 0], [-1, 127 / 127.5 - 1, 1], atol=1e-6)


def test_no_frames_are_no_error():
    assert preprocess(np.zeros((0, 30, 50, 3), np.uint8), 16).shape == (0, 16, 16, 3)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((2, 8, 8, 4), np.uint8),
        np.zeros((2, 8, 8), np.uint8),
    ],
)
def test_other_types_and_shapes_raise(frames):
    with pytest.raises(ValueError, match=r"uint8 RGB \[T, H, W, 3\] is accepted"):
        preprocess(frames, 4)


def test_the_canvas_keeps_the_resolution_with_least_waste():
    assert choose_canvas(384, 384, 384)[:2] == (384, 384)
    assert choose_canvas(800, 384, 384)[:2] == (1152, 384)  # two tiles would shrink it
    assert choose_canvas(384, 800, 384)[:2] == (384, 1152)
    assert choose_canvas(9000, 9000, 384)[:2] == (2304, 2304)  # the largest there is
    assert choose_canvas(20, 20, 384)[:2] == (384, 384)


@pytest.mark.parametrize("size", [(100, 40), (40, 100), (33, 31), (1, 300), (200, 3)])
def test_the_box_keeps_the_aspect_and_stands_in_the_middle(size):
    canvas = choose_canvas(*size, 32)
    left, top, right, bottom = canvas.box
    width, height = right - left, bottom - top
    assert 0 < width <= canvas.width and 0 < height <= canvas.height
    assert width == canvas.width or height == canvas.height
    scale = min(canvas.width / size[0], canvas.height / size[1])
    assert abs(width - size[0] * scale) <= 1 and abs(height - size[1] * scale) <= 1
    assert abs(left - (canvas.width - right)) <= 1 and abs(top - (canvas.height - bottom)) <= 1


def test_views_are_the_whole_picture_then_its_tiles_row_by_row():
    picture = np.zeros((64, 96, 3), np.uint8)
    for row in range(2):
        for column in range(3):
            picture[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = 40 * (3 * row + column)
    views = anyres_views(picture, 32)
    assert views.shape == (7, 32, 32, 3) and views.dtype == np.uint8
    assert [int(view[0, 0, 0]) for view in views[1:]] == [0, 40, 80, 120, 160, 200]
    assert all((view == view[0, 0]).all() for view in views[1:])
    whole = np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(views[0], whole)


def test_what_the_picture_leaves_free_is_black():
    views = anyres_views(np.full((32, 80, 3), 255, np.uint8), 32)
    canvas = choose_canvas(80, 32, 32)
    board = views[1:].reshape(canvas.height // 32, canvas.width // 32, 32, 32, 3).transpose(0, 2, 1, 3, 4)
    board = board.reshape(canvas.height, canvas.width, 3)
    left, top, right, bottom = canvas.box
    assert (board[top:bottom, left:right] == 255).all()
    assert int((board == 255).all(-1).sum()) == (right - left) * (bottom - top) < canvas.width * canvas.height


@pytest.mark.parametrize(
    "picture", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32)]
)
def test_pictures_of_other_types_raise(picture):
    with pytest.raises(ValueError, match=r"uint8 RGB \[H, W, 3\] is accepted"):
        anyres_views(picture, 4)


def test_preprocess_is_stretch_scaled() -> None:
    frames = np.random.default_rng(3).integers(0, 256, (2, 20, 30, 3), np.uint8)
    stretched = stretch(frames, 16)
    assert stretched.dtype == np.uint8 and stretched.shape == (2, 16, 16, 3)
    np.testing.assert_allclose(preprocess(frames, 16), stretched / 127.5 - 1, atol=1e-6)
    assert stretch(stretched, 16) is stretched and stretch(frames[:0], 16).shape == (0, 16, 16, 3)


def test_frames_of_the_models_size_become_what_preprocess_makes_of_them():
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    pixels = to_pixels(frames)
    assert pixels.dtype == np.float32 and (to_pixels(np.array([0, 255], np.uint8)) == [-1, 1]).all()
    np.testing.assert_allclose(pixels, preprocess(frames, 16), atol=1e-6)
