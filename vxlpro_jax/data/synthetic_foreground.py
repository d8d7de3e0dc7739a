"""Generated clips of which it is known, token by token, where the foreground is.

Source: ours: a clip is rendered with its event and without it, and what differs is foreground.
"""

from typing import NamedTuple

import numpy as np

from vxlpro_jax.data.image_transforms import stretch
from vxlpro_jax.data.synthetic import DIGITS, DIRECTIONS, SHAPES, EventKind, draw_event, draw_scene
from vxlpro_jax.data.synthetic_bank import COLOUR_NAMES, draw_window, through_codec
from vxlpro_jax.data.synthetic_render import render

CAST: tuple[EventKind, ...] = ("shape_card", "digit_card", "mover")
MIN_CHANGE = 8  # of 255, mean over colours: less is rounding
FOREGROUND_SHARE = 0.1  # of a token's pixels
CRF = 23


class ForegroundClips(NamedTuple):
    """frames uint8 [N, t, S, S, 3]; foreground bool [N, t, g, g]: True where a token shows the event; kind int [N]:
    index into CAST; direction int [N]: index into DIRECTIONS, -1 for cards; shown bool [N, t]: the frames in which the
    event is visible."""

    frames: np.ndarray
    foreground: np.ndarray
    kind: np.ndarray
    direction: np.ndarray
    shown: np.ndarray


def foreground_clips(seed: int, num_clips: int, clip_len: int, image_size: int, grid_size: int) -> ForegroundClips:
    """Clips of one event each over moving texture, visible in all frames or some as in the bank, through the codec as
    real files; clip i does not depend on num_clips."""
    clips = [_clip(seed, index, clip_len, image_size, grid_size) for index in range(num_clips)]
    return ForegroundClips(*(np.stack(parts) for parts in zip(*clips, strict=True)))


def _clip(seed: int, index: int, clip_len: int, image_size: int, grid_size: int) -> tuple:
    rng = np.random.default_rng([seed, index])
    kind = int(rng.integers(len(CAST)))
    glyphs = DIGITS if CAST[kind] == "digit_card" else SHAPES
    glyph, colour = str(rng.choice(glyphs)), str(rng.choice(COLOUR_NAMES))
    first, last = draw_window(rng, clip_len)
    event = draw_event(rng, CAST[kind], glyph, colour, float(first), float(last + 1))
    scene, size = draw_scene(rng), 2 * image_size
    times_s = np.arange(clip_len, dtype=np.float64)
    frames, empty = (render((scene,), events, times_s, (size, size)) for events in ((event,), ()))
    changed = np.abs(frames.astype(np.int16) - empty).mean(-1) > MIN_CHANGE
    cut = size - size % grid_size
    blocks = changed[:, :cut, :cut].reshape(clip_len, grid_size, cut // grid_size, grid_size, cut // grid_size)
    shown = (times_s >= first) & (times_s <= last)
    direction = DIRECTIONS.index(event.direction) if event.direction else -1
    return (
        stretch(through_codec(frames, CRF), image_size),
        blocks.mean((2, 4)) >= FOREGROUND_SHARE,
        kind,
        direction,
        shown,
    )
