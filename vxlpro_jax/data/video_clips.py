"""A folder of videos and pictures as sources of clips.

Source: ours; paper 3.2 (images and videos jointly). Decoding is bounded in memory: only shrunken frames are kept.
"""

from functools import partial
from pathlib import Path

import numpy as np

from vxlpro_jax.data.clip_shards import ClipSource
from vxlpro_jax.data.frame_sampling import sample_fps
from vxlpro_jax.data.image_folder import IMAGE_SUFFIXES
from vxlpro_jax.data.image_transforms import stretch
from vxlpro_jax.data.video_decode import open_video
from vxlpro_jax.data.video_records import VideoError

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg", ".gif")


def folder_sources(folder: str | Path, clip_len: int, fps: float, max_frames: int, image_size: int) -> list[ClipSource]:
    """Every video and picture below the folder, in the order of their names, by its path inside it.

    Raises ValueError where there is none.
    """
    folder = Path(folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    sources = []
    for path in paths:
        name, suffix = path.relative_to(folder).as_posix(), path.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            sources.append(ClipSource(name, True, partial(picture_clip, path, image_size)))
        elif suffix in VIDEO_SUFFIXES:
            sources.append(ClipSource(name, False, partial(video_clips, path, clip_len, fps, max_frames, image_size)))
    if not sources:
        raise ValueError(
            f"{folder}: no videos or pictures in it; files that end in {', '.join(VIDEO_SUFFIXES + IMAGE_SUFFIXES)} "
            "are accepted (config.data.folder)"
        )
    return sources


def picture_clip(path: Path, image_size: int) -> np.ndarray:
    """uint8 [1, 1, S, S, 3]. Raises VideoError."""
    with open_video(path) as picture:
        return np.concatenate([stretch(chunk.frames, image_size) for chunk in picture.read_chunks([0])])[None]


def video_clips(path: Path, clip_len: int, fps: float, max_frames: int, image_size: int) -> np.ndarray:
    """uint8 [n, clip_len, S, S, 3]: clips that follow each other; a rest is left out, a video shorter than one clip
    repeats its last frame. Lost frames are skipped; VideoError where nothing can be read."""
    with open_video(path) as video:
        choice = sample_fps(video.times_s, fps, max_frames, video.duration_s)
        parts = [stretch(chunk.frames, image_size) for chunk in video.read_chunks(choice.indices, on_damage="skip")]
    frames = np.concatenate(parts)
    if not len(frames):
        raise VideoError(path, "none of the chosen frames can be decoded")
    if len(frames) < clip_len:
        frames = np.concatenate([frames, np.repeat(frames[-1:], clip_len - len(frames), axis=0)])
    whole = len(frames) // clip_len * clip_len
    return frames[:whole].reshape(-1, clip_len, *frames.shape[1:])
