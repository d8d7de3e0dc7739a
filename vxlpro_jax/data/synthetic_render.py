"""Pixels of the generated world: moving textures, cards and movers, at any size and at any moments.

Source: ours (docs/tiny.md). Everything is a function of continuous place and time, so a video looks the same at every
resolution and frame rate; edges are anti-aliased from distance tables of the glyphs.
"""

import functools

import numpy as np

from vxlpro_jax.data.synthetic import COLOURS, SHAPES, Event, Scene, SyntheticVideo

CARD_RGB = (248, 248, 244)
OUTLINE_RGB = (252, 252, 252)
GLYPH_SHARE = 0.40  # half height of a glyph over the side of its card
TABLE_SIZE, TABLE_REACH = (
    97,
    1.35,
)  # a glyph's distance table: samples per side; half side in units of the glyph's radius


def render_frames(video: SyntheticVideo, times_s: np.ndarray, size: tuple[int, int] = (112, 112)) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] (RGB) of the video at the given times in seconds; size is (H, W)."""
    return render(video.scenes, video.events, times_s, size)


def render(
    scenes: tuple[Scene, ...], events: tuple[Event, ...], times_s: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] of scenes with events over them."""
    times_s = np.asarray(times_s, np.float64)
    height, width = size
    frames = np.empty((len(times_s), height, width, 3), np.float32)
    starts = np.array([scene.start_s for scene in scenes])
    scene_of_frame = np.maximum(np.searchsorted(starts, times_s, side="right") - 1, 0)
    for number in np.unique(scene_of_frame):
        chosen = scene_of_frame == number
        frames[chosen] = render_texture(scenes[number], times_s[chosen], size)
    for event in events:
        paint_event(frames, event, times_s)
    return to_pixels(frames)


def paint_event(frames: np.ndarray, event: Event, times_s: np.ndarray) -> None:
    """Blend an event into float32 frames [T, H, W, 3], in place, wherever times_s [T] says that it is visible."""
    shown = np.flatnonzero((times_s >= event.start_s) & (times_s < event.end_s))
    if event.kind == "mover":
        for t in shown:
            _draw_mover(frames[t], event, times_s[t])
    elif len(shown):
        _draw_card(frames, shown, event)


def to_pixels(frames: np.ndarray) -> np.ndarray:
    """Rounded uint8 of float frames in 0..255."""
    return np.clip(frames + 0.5, 0, 255).astype(np.uint8)


def render_texture(scene: Scene, times_s: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Moving texture float32 [T, H, W, 3] in 0..255; never close to the white of a card."""
    rng = np.random.default_rng(scene.seed)
    low, high = rng.uniform(15, 110, 3), rng.uniform(60, 205, 3)
    angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.12)
    grain = rng.uniform(1.5, 5.0)
    phases = rng.uniform(0, 2 * np.pi, 8)
    height, width = size
    y = ((np.arange(height, dtype=np.float32) + 0.5) / height)[None, :, None]
    x = ((np.arange(width, dtype=np.float32) + 0.5) / width)[None, None, :]
    t = np.asarray(times_s, np.float32)[:, None, None]
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    across = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
    shift = np.float32(speed) * t
    turn = np.float32(2 * np.pi * grain)
    if scene.texture == "waves":
        value = (
            0.5
            + 0.25 * np.sin(turn * (along + shift) + phases[0])
            + 0.25 * np.sin(turn * 0.6 * (across - shift) + 3 * np.sin(4 * along) + phases[1])
        )
    elif scene.texture == "stripes":
        value = _soft_step(np.sin(turn * (along + shift) + phases[0]), 2.5)
    elif scene.texture == "checks":
        value = _soft_step(np.sin(turn * 0.8 * (along + shift)) * np.sin(turn * 0.8 * (across + 0.5 * shift)), 4.0)
    elif scene.texture == "clouds":
        value = _clouds(rng, x + shift * np.float32(np.cos(angle)), y + shift * np.float32(np.sin(angle)), grain)
    elif scene.texture == "rings":
        centre = rng.uniform(0.1, 0.9, 2)
        distance = np.sqrt((x - np.float32(centre[0])) ** 2 + (y - np.float32(centre[1])) ** 2)
        value = 0.5 + 0.5 * np.sin(turn * 1.4 * (distance - shift) + phases[0])
    else:  # plasma
        value = 0.5 + 0.17 * (
            np.sin(turn * (x + 0.6 * shift) + phases[0])
            + np.sin(turn * 0.7 * (y - shift) + phases[1])
            + np.sin(turn * 0.5 * (x + y) + np.float32(6 * speed) * t + phases[2])
        )
    value = np.broadcast_to(value, (len(times_s), height, width)).astype(np.float32)[..., None]
    return low.astype(np.float32) + value * (high - low).astype(np.float32)


def _soft_step(value: np.ndarray, sharpness: float) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(np.float32(sharpness) * value)


def _clouds(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, grain: float) -> np.ndarray:
    """Two octaves of smooth value noise that repeats every 16 cells."""
    total = np.zeros((), np.float32)
    for octave, weight in ((1.0, 0.65), (2.3, 0.35)):
        grid = rng.random((16, 16), dtype=np.float32)
        gx, gy = np.broadcast_arrays(x * np.float32(grain * octave), y * np.float32(grain * octave))
        x0, y0 = np.floor(gx).astype(np.int32), np.floor(gy).astype(np.int32)
        fx, fy = gx - x0, gy - y0
        fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
        top = grid[y0 % 16, x0 % 16] * (1 - fx) + grid[y0 % 16, (x0 + 1) % 16] * fx
        bottom = grid[(y0 + 1) % 16, x0 % 16] * (1 - fx) + grid[(y0 + 1) % 16, (x0 + 1) % 16] * fx
        total = total + np.float32(weight) * (top * (1 - fy) + bottom * fy)
    return total


def mover_place(event: Event, time_s: float) -> tuple[float, float]:
    """Where a mover's middle is at a time: (x, y) as shares of the picture; it crosses `travel` while it is shown."""
    done = (time_s - event.start_s) / max(event.end_s - 1 - event.start_s, 1) - 0.5
    step = event.travel * done * (-1 if event.direction in ("left", "up") else 1)
    x, y = event.centre
    return (0.5 + step, y) if event.direction in ("left", "right") else (x, 0.5 + step)


def _draw_mover(frame: np.ndarray, event: Event, time_s: float) -> None:
    height, width, _ = frame.shape
    x, y = mover_place(event, time_s)
    radius = event.size / 2 * np.sqrt(height * width)
    for rgb, swell in ((OUTLINE_RGB, 0.12), (COLOURS[event.colour], 0.0)):
        coverage = _glyph_coverage(event.glyph, (x * width, y * height), radius, 0.0, (height, width), swell)
        frame += coverage[..., None] * (np.asarray(rgb, np.float32) - frame)


def _draw_card(frames: np.ndarray, shown: np.ndarray, event: Event) -> None:
    """Blend a card into frames[shown], in place."""
    size = frames.shape[1:3]
    side = event.size * np.sqrt(size[0] * size[1])
    # A square card on a wide picture takes a larger share of its height: it is moved inwards to stay whole.
    x, y = (
        np.clip(c * n, min(0.55 * side, n / 2), max(n - 0.55 * side, n / 2))
        for c, n in zip(event.centre, size[::-1], strict=True)
    )
    middle = (float(x), float(y))
    card = _glyph_coverage("square", middle, side / 2 / _SQUARE_HALF, event.tilt, size)[..., None]
    ink = np.zeros_like(card)
    if event.glyph:
        ink = _glyph_coverage(event.glyph, middle, side * GLYPH_SHARE, event.tilt, size)[..., None]
    colour = np.asarray(COLOURS[event.colour], np.float32) if event.glyph else np.float32(0)
    paint = card * (1 - ink) * np.asarray(CARD_RGB, np.float32) + card * ink * colour
    frames[shown] = frames[shown] * (1 - card) + paint


def _glyph_coverage(
    glyph: str, middle: tuple[float, float], radius: float, tilt: float, size: tuple[int, int], swell: float = 0.0
) -> np.ndarray:
    """Share of every pixel that the glyph covers, float32 [H, W]; `middle` and `radius` in pixels, swell in radii."""
    y = (np.arange(size[0], dtype=np.float32)[:, None] + 0.5 - np.float32(middle[1])) / np.float32(radius)
    x = (np.arange(size[1], dtype=np.float32)[None, :] + 0.5 - np.float32(middle[0])) / np.float32(radius)
    cos, sin = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
    scale = (TABLE_SIZE - 1) / (2 * TABLE_REACH)
    gx = np.clip((x * cos + y * sin + TABLE_REACH) * scale, 0, TABLE_SIZE - 1.001)
    gy = np.clip((y * cos - x * sin + TABLE_REACH) * scale, 0, TABLE_SIZE - 1.001)
    x0, y0 = gx.astype(np.int32), gy.astype(np.int32)
    fx, fy = gx - x0, gy - y0
    table = _distance_table(glyph)
    distance = (table[y0, x0] * (1 - fx) + table[y0, x0 + 1] * fx) * (1 - fy) + (
        table[y0 + 1, x0] * (1 - fx) + table[y0 + 1, x0 + 1] * fx
    ) * fy
    return np.clip(0.5 - (distance - np.float32(swell)) * np.float32(radius), 0, 1)


_SQUARE_HALF = 0.82  # half side of the square glyph, chosen so that the shapes have about the same area


@functools.cache
def _distance_table(glyph: str) -> np.ndarray:
    """Signed distance to the glyph's edge in radii, float32 [97, 97] (negative inside), y downwards."""
    axis = np.linspace(-TABLE_REACH, TABLE_REACH, TABLE_SIZE)
    points = np.stack(np.meshgrid(axis, axis), -1)
    x, y = points[..., 0], points[..., 1]
    if glyph == "circle":
        table = np.hypot(x, y) - 0.93
    elif glyph == "ring":
        table = np.abs(np.hypot(x, y) - 0.70) - 0.25
    elif glyph in SHAPES:
        table = _polygon_distance(points, _polygon(glyph))
    else:
        strokes = _DIGIT_STROKES[glyph]
        table = np.min([_polyline_distance(points, np.asarray(stroke)) for stroke in strokes], axis=0) - 0.17
    return table.astype(np.float32)


def _polygon(shape: str) -> np.ndarray:
    if shape == "square":
        return _SQUARE_HALF * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    if shape == "triangle":
        return np.array([(0.0, -1.0), (1.02, 0.85), (-1.02, 0.85)])
    if shape == "cross":
        arm, end = 0.31, 0.97
        corner = [(arm, arm), (end, arm), (end, -arm), (arm, -arm), (arm, -end), (-arm, -end), (-arm, -arm)]
        return np.array([*corner, (-end, -arm), (-end, arm), (-arm, arm), (-arm, end), (arm, end)])
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radii = np.where(np.arange(10) % 2 == 0, 1.12, 0.44)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles) + 0.06], -1)


def _polygon_distance(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    inside = np.zeros(points.shape[:-1], bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        crosses = (y0 > points[..., 1]) != (y1 > points[..., 1])
        slope = (x1 - x0) / (y1 - y0) if y1 != y0 else 0.0
        inside ^= crosses & (points[..., 0] < slope * (points[..., 1] - y0) + x0)
    distance = _polyline_distance(points, np.concatenate([corners, corners[:1]]))
    return np.where(inside, -distance, distance)


def _polyline_distance(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    start, step = line[:-1], np.diff(line, axis=0)
    offset = points[..., None, :] - start
    share = np.clip((offset * step).sum(-1) / np.maximum((step**2).sum(-1), 1e-9), 0, 1)
    return np.sqrt(((offset - share[..., None] * step) ** 2).sum(-1)).min(-1)


def _arc(centre: tuple[float, float], radii: tuple[float, float], start_deg: float, end_deg: float) -> np.ndarray:
    """Points of an elliptic arc; 0 degrees is to the right, 90 is down."""
    angles = np.radians(np.linspace(start_deg, end_deg, 17))
    return np.stack([centre[0] + radii[0] * np.cos(angles), centre[1] + radii[1] * np.sin(angles)], -1)


_DIGIT_STROKES: dict[str, list] = {
    "0": [_arc((0, 0), (0.47, 0.80), 0, 360)],
    "1": [[(-0.32, -0.48), (0.08, -0.80), (0.08, 0.80)], [(-0.30, 0.80), (0.45, 0.80)]],
    "2": [np.concatenate([_arc((0, -0.38), (0.45, 0.42), -170, 35), [(-0.47, 0.80), (0.52, 0.80)]])],
    "3": [_arc((-0.02, -0.40), (0.44, 0.40), -150, 85), _arc((-0.02, 0.40), (0.50, 0.42), -85, 150)],
    "4": [[(0.22, 0.80), (0.22, -0.80), (-0.55, 0.30), (0.60, 0.30)]],
    "5": [[(0.46, -0.80), (-0.40, -0.80), (-0.45, -0.08)], _arc((-0.02, 0.28), (0.50, 0.52), -135, 140)],
    "6": [_arc((0, 0.33), (0.46, 0.47), 0, 360), _arc((0.32, 0.30), (0.78, 1.12), -98, -178)],
    "7": [[(-0.50, -0.80), (0.50, -0.80), (-0.12, 0.80)]],
    "8": [_arc((0, -0.42), (0.40, 0.38), 0, 360), _arc((0, 0.40), (0.48, 0.42), 0, 360)],
    "9": [_arc((0, -0.33), (0.46, 0.47), 0, 360), _arc((-0.32, -0.30), (0.78, 1.12), 82, 2)],
}
