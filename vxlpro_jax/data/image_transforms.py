"""Frames and pictures to the pixels that the tower takes.

Source: SPEC 2 (preprocessing) and 13 (pictures: anyres).
"""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from vxlpro_jax.types import Array

MAX_TILES_PER_SIDE = 6  # SPEC 13: grid (1x1)...(6x6)


def stretch(frames: np.ndarray, image_size: int) -> np.ndarray:
    """uint8 RGB [T, H, W, 3] -> uint8 [T, S, S, 3]: stretched to a square, bicubic with antialiasing.

    Raises ValueError for other types or shapes.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(
            f"frames of type {frames.dtype}, shape {list(frames.shape)}: uint8 RGB [T, H, W, 3] is accepted"
        )
    size = (image_size, image_size)
    if frames.shape[1:3] == size:
        return frames
    resized = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames]
    return np.stack(resized) if resized else np.zeros((0, *size, 3), np.uint8)


def preprocess(frames: np.ndarray, image_size: int) -> np.ndarray:
    """uint8 RGB [T, H, W, 3] -> float32 [T, S, S, 3] in [-1, 1]: see `stretch`, which also says what is raised."""
    return (stretch(frames, image_size).astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)


def to_pixels(frames: Array) -> Array:
    """uint8 frames of the model's size, numpy's or jax's -> float32 in [-1, 1], as the tower takes them."""
    return frames.astype(np.float32) / np.float32(127.5) - 1


class Canvas(NamedTuple):
    """Canvas of a picture, in pixels, and the box (left, top, right, bottom) where the scaled picture stands."""

    width: int
    height: int
    box: tuple[int, int, int, int]


def choose_canvas(width: int, height: int, tile: int) -> Canvas:
    """The canvas of whole tiles that keeps most of the picture's resolution; least waste decides ties."""
    best, best_rank = (tile, tile), (-1, 0)
    for columns in range(1, MAX_TILES_PER_SIDE + 1):
        for rows in range(1, MAX_TILES_PER_SIDE + 1):
            canvas = (columns * tile, rows * tile)
            scale = min(canvas[0] / width, canvas[1] / height)
            effective = min(int(width * scale) * int(height * scale), width * height)
            rank = (effective, effective - canvas[0] * canvas[1])
            if rank > best_rank:
                best, best_rank = canvas, rank
    if best[0] / width < best[1] / height:
        scaled = (best[0], min(math.ceil(height * best[0] / width), best[1]))
    else:
        scaled = (min(math.ceil(width * best[1] / height), best[0]), best[1])
    left, top = (best[0] - scaled[0]) // 2, (best[1] - scaled[1]) // 2
    return Canvas(*best, (left, top, left + scaled[0], top + scaled[1]))


def anyres_views(picture: np.ndarray, tile: int) -> np.ndarray:
    """uint8 RGB [H, W, 3] -> views [V, tile, tile, 3]: the whole picture, stretched, then the tiles of its canvas row
    by row. Raises ValueError for other types or shapes."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
        raise ValueError(
            f"a picture of type {picture.dtype}, shape {list(picture.shape)}: uint8 RGB [H, W, 3] is accepted"
        )
    image = Image.fromarray(picture)
    canvas = choose_canvas(image.width, image.height, tile)
    left, top, right, bottom = canvas.box
    board = Image.new("RGB", (canvas.width, canvas.height))
    board.paste(image.resize((right - left, bottom - top), Image.Resampling.BICUBIC), (left, top))
    pixels = np.asarray(board).reshape(canvas.height // tile, tile, canvas.width // tile, tile, 3)
    tiles = pixels.transpose(0, 2, 1, 3, 4).reshape(-1, tile, tile, 3)
    whole = np.asarray(image.resize((tile, tile), Image.Resampling.BICUBIC))
    return np.concatenate([whole[None], tiles])
