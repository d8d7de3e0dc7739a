"""Generated videos whose redundancy is known: still, slow and busy ones, against which pruning is measured.

Source: ours (docs/pruning.md). Still and slow ones carry what makes real still footage differ from frame to frame
(sensor noise, drifting light, the codec), so that no comparison of pixels for equality could tell them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import av
import numpy as np

from vxlpro_jax.data.synthetic import COLOURS, DIGITS, SHAPES, Event, EventKind, Scene, draw_event, draw_scene
from vxlpro_jax.data.synthetic_files import CHUNK_FRAMES, encode_frames
from vxlpro_jax.data.synthetic_render import render, to_pixels

Motion = Literal["still", "slow", "busy"]
MOTIONS: tuple[Motion, ...] = ("still", "slow", "busy")  # the most redundant first
SLOW_RATES = (0.1, 0.3)  # seconds of the world's clock per second of a slow video: it drifts by 0.1 to 2 widths
SCENE_S = (3, 8)  # seconds of a busy video's scenes
MOST_NOISE = 3.0  # standard deviation in grey levels
STEADY_LIGHT, CHANGING_LIGHT = 0.02, 0.12  # share of the light that comes and goes, at most
CARD_SHARE = 0.5  # of still and slow videos that show a card, all the time


@dataclass(frozen=True)
class RedundantVideo:
    """One video: what happens in it, how fast its clock runs, and what the camera adds. `seed` draws the noise."""

    motion: Motion
    length_s: int
    scenes: tuple[Scene, ...]
    events: tuple[Event, ...]
    rate: float
    noise: float
    drift: float
    seed: tuple[int, ...]


class VideoFile(NamedTuple):
    path: Path
    motion: Motion


def draw_video(
    seed: int, index: int, motion: Motion, length_s: int = 64, most_drift: float = STEADY_LIGHT
) -> RedundantVideo:
    """Video `index` of `seed`; it does not depend on how many are drawn. most_drift: the light's, as a share.

    Raises ValueError for an unknown motion.
    """
    if motion not in MOTIONS:
        raise ValueError(f"motion={motion!r}: one of {', '.join(MOTIONS)} is accepted.")
    rng = np.random.default_rng([seed, index, MOTIONS.index(motion)])
    noise, drift = rng.uniform(0, MOST_NOISE), rng.uniform(0, most_drift)
    if motion == "busy":
        scenes, events = _busy_story(rng, length_s)
        return RedundantVideo(motion, length_s, scenes, events, 1.0, noise, drift, (seed, index))
    rate = 0.0 if motion == "still" else rng.uniform(*SLOW_RATES)
    scenes = (draw_scene(rng),)
    events = (_draw_card(rng, 0.0, float(length_s)),) if rng.random() < CARD_SHARE else ()
    return RedundantVideo(motion, length_s, scenes, events, rate, noise, drift, (seed, index))


def redundant_frames(video: RedundantVideo, times_s: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] at the given whole seconds; size is (H, W)."""
    times_s = np.asarray(times_s, np.float64)
    frames = render(video.scenes, video.events, times_s * video.rate, size).astype(np.float32)
    phase = np.random.default_rng(video.seed).uniform(0, 2 * np.pi)
    light = 1 + video.drift * np.sin(phase + 2 * np.pi * times_s / video.length_s)
    for frame, shine, time_s in zip(frames, light, times_s, strict=True):
        rng = np.random.default_rng([*video.seed, int(time_s)])
        frame *= np.float32(shine)
        frame += np.float32(video.noise) * rng.standard_normal(frame.shape, np.float32)
    return to_pixels(frames)


def write_redundant_video(video: RedundantVideo, path: Path, size: tuple[int, int] = (112, 112), crf: int = 23) -> None:
    """Write the video as H.264 at one frame per second, beside the destination and renamed."""
    part = path.with_name(f".part-{path.name}")
    starts = range(0, video.length_s, CHUNK_FRAMES)
    chunks = (np.arange(start, min(start + CHUNK_FRAMES, video.length_s)) for start in starts)
    with av.open(str(part), "w") as container:
        frames = (frame for chunk in chunks for frame in redundant_frames(video, chunk, size))
        encode_frames(container, frames, size, 1.0, crf)
    part.replace(path)


def write_redundancy_set(
    out: Path, seed: int, num_per_motion: int, length_s: int = 64, most_drift: float = STEADY_LIGHT
) -> Iterator[VideoFile]:
    """Write num_per_motion videos of each motion as OUT/MOTION_NNNN.mp4; those already there are kept. Yields each
    when it is there."""
    out.mkdir(parents=True, exist_ok=True)
    for index in range(num_per_motion):
        for motion in MOTIONS:
            path = out / f"{motion}_{index:04d}.mp4"
            if not path.exists():
                write_redundant_video(draw_video(seed, index, motion, length_s, most_drift), path)
            yield VideoFile(path, motion)


def _busy_story(rng: np.random.Generator, length_s: int) -> tuple[tuple[Scene, ...], tuple[Event, ...]]:
    """Scenes that change every few seconds, most of them with something in them."""
    scenes: list[Scene] = []
    events: list[Event] = []
    start = 0
    while start < length_s:
        duration = int(rng.integers(SCENE_S[0], SCENE_S[1] + 1))
        scenes.append(draw_scene(rng, float(start)))
        if rng.random() < 0.7:
            kind: EventKind = ("shape_card", "digit_card", "mover")[rng.integers(3)]
            glyph = str(rng.choice(DIGITS if kind == "digit_card" else SHAPES))
            colour = str(rng.choice(list(COLOURS)))
            events.append(draw_event(rng, kind, glyph, colour, float(start), float(start + duration)))
        start += duration
    return tuple(scenes), tuple(events)


def _draw_card(rng: np.random.Generator, start_s: float, end_s: float) -> Event:
    glyph, colour = str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS)))
    return draw_event(rng, "shape_card", glyph, colour, start_s, end_s)
