"""Pictures as video: an image file, a folder or list of image files, or an array of frames, each with its times.

Source: ours. Pixels are what a viewer sees: turned as EXIF says, transparent parts on white, 16 bits reduced to 8.
"""

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vxlpro_jax.data.video_records import MAX_PIXELS, VideoError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_IMAGE_FORMATS = (
    "BMP",
    "JPEG",
    "PNG",
    "PPM",
    "TIFF",
    "WEBP",
)  # JPEG includes MPO; gif is read as video: it has durations
_PICTURE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
_EXIF_ORIENTATION = 0x0112
_ASIDE_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width


def is_picture(path: Path) -> bool:
    """True if the file's content, whatever its name, is one still image. Raises VideoError for one too large."""
    try:
        with _opened(path) as image:
            return getattr(image, "n_frames", 1) == 1 or image.format == "MPO"
    except (Image.UnidentifiedImageError, OSError, SyntaxError, EOFError):
        return False


def images_in(folder: Path) -> list[Path]:
    """Its image files in the order of their names, numbers counted as numbers (2.png before 10.png)."""
    paths = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    return sorted(paths, key=_natural_key)


def _natural_key(path: Path) -> list[tuple[int, int, str]]:
    pieces = re.split(r"(\d+)", path.name)
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece.lower()) for piece in pieces] + [
        (1, 0, path.name)
    ]


class ImageFiles:
    """Image files, all of one size, as frames; see FrameSource. An unreadable one counts as a lost frame."""

    decoder = "pillow"
    is_whole = True

    def __init__(self, path: str, paths: Sequence[Path], times_s: np.ndarray, duration_s: float):
        """Reads headers only. Raises VideoError if none is readable or sizes differ."""
        self.path, self.times_s, self.duration_s = path, times_s, duration_s
        self._paths = list(paths)
        sizes: dict[tuple[int, int], Path] = {}
        for image_path in self._paths:
            size = self._size(image_path)
            if size is not None:
                sizes.setdefault(size, image_path)
        if not sizes:
            raise VideoError(path, f"none of its {len(self._paths)} images can be read")
        if len(sizes) > 1:
            (first, one), (second, other), *_ = sizes.items()
            raise VideoError(
                path,
                f"images of different sizes: {one.name} is {first[1]}x{first[0]}, {other.name} {second[1]}x{second[0]} "
                "(width x height); the frames of a video have one size",
            )
        ((self.height, self.width),) = sizes

    def frames(self, indices: Iterable[int]) -> Iterator[tuple[int, np.ndarray | None]]:
        """See FrameSource.frames."""
        for index in indices:
            try:
                with _opened(self._paths[index]) as image:
                    frame = _as_rgb(image)
            except _PICTURE_ERRORS:
                frame = None
            yield index, frame if frame is not None and frame.shape[:2] == (self.height, self.width) else None

    def close(self) -> None:
        """Nothing is kept open."""

    def _size(self, path: Path) -> tuple[int, int] | None:
        """(height, width) as a viewer sees it, from the header; None if it is unreadable."""
        try:
            with _opened(path) as image:
                width, height = image.size
                turned = image.getexif().get(_EXIF_ORIENTATION) in _ASIDE_TURNED
        except VideoError:
            raise
        except _PICTURE_ERRORS:
            return None
        return (width, height) if turned else (height, width)


def _opened(path: Path) -> Image.Image:
    """An image whose header alone was read; VideoError if decoding it would take too much memory."""
    Image.init()  # Image.open knows only some formats before
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit follows
            image = Image.open(path, formats=_IMAGE_FORMATS)
    except Image.DecompressionBombError as error:
        raise VideoError(path, f"a picture too large to decode; at most {MAX_PIXELS} pixels are read") from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise VideoError(path, f"a picture of {image.size} pixels (width, height); at most {MAX_PIXELS} are read")
    return image


def _as_rgb(image: Image.Image) -> np.ndarray:
    """uint8 [height, width, 3] as a viewer sees it."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        grey = np.clip(values // 257 if values.max(initial=0) > 255 else values, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        page = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(page, image)
    return np.array(image.convert("RGB"))


class ArrayFrames:
    """An array of frames; see FrameSource. It is referred to, not copied."""

    decoder = "array"
    is_whole = True
    path = "<array>"

    def __init__(self, frames: np.ndarray, times_s: np.ndarray, duration_s: float):
        self.height, self.width = frames.shape[1:3]
        self.times_s, self.duration_s, self._frames = times_s, duration_s, frames

    def frames(self, indices: Iterable[int]) -> Iterator[tuple[int, np.ndarray | None]]:
        """See FrameSource.frames."""
        for index in indices:
            yield index, self._frames[index]

    def close(self) -> None:
        """Nothing is kept open."""
