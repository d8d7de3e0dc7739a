"""The generated world: what happens in a synthetic video, drawn from a seed, with everything that is true about it.

Source: ours (docs/tiny.md). A haystack of moving texture holds cards (white, with a coloured shape or digit) and movers
(coloured shapes that cross the picture). Sample i of a seed never depends on how many samples are asked for.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
DIGITS = tuple("0123456789")
DIRECTIONS = ("left", "right", "up", "down")
# Dark enough to stand out on a white card after chroma subsampling, far enough apart to be told from each other.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 25, 35),
    "orange": (245, 130, 15),
    "yellow": (225, 205, 0),
    "green": (25, 145, 45),
    "cyan": (0, 185, 205),
    "blue": (25, 55, 210),
    "purple": (150, 35, 190),
    "black": (15, 15, 15),
}
TEXTURES = ("waves", "stripes", "checks", "clouds", "rings", "plasma")
WORLDS = ("standard", "lookalike", "busy")

GROUP_S = 4  # the world's own grid in seconds: events of one video never share a cell, so that their order is visible
MIN_LENGTH_S = {"standard": 32, "lookalike": 32, "busy": 64}  # that its events surely find room
EventKind: TypeAlias = Literal["shape_card", "digit_card", "blank_card", "mover"]
USUAL_CAST: tuple[EventKind, ...] = ("shape_card", "digit_card", "mover")
BUSY_CAST: tuple[EventKind, ...] = (*USUAL_CAST, *USUAL_CAST, "shape_card")


@dataclass(frozen=True)
class Event:
    """Something that is visible while start_s <= time < end_s.

    `glyph` is a shape or a digit (empty on a blank card). Places and sizes are shares of the picture: `centre` (x, y)
    of a card or of a mover's path (only the part across its direction counts), `size` the side of the card, or of the
    mover, over the root of the picture's area, `travel` the length of a mover's path, `tilt` a card's rotation in
    radians.
    """

    kind: EventKind
    start_s: float
    end_s: float
    glyph: str
    colour: str
    centre: tuple[float, float]
    size: float
    direction: str = ""
    travel: float = 0.0
    tilt: float = 0.0


@dataclass(frozen=True)
class Scene:
    """A stretch of moving texture that starts at start_s; `seed` draws its colours, grain and motion."""

    start_s: float
    texture: str
    seed: tuple[int, ...]


@dataclass(frozen=True)
class SyntheticVideo:
    """All there is to know about one generated video; data/synthetic_render.py turns it into pixels.

    `events` are in order of time. `seed` and `index` name the sample and seed its questions.
    """

    seed: int
    index: int
    world: str
    length_s: int
    scenes: tuple[Scene, ...]
    events: tuple[Event, ...]


def sample_video(seed: int, index: int, length_s: int = 64, world: str = "standard") -> SyntheticVideo:
    """Draw video `index` of `seed`.

    A standard video holds one shape card, one digit card and one mover, of three different colours, in cells of the 4 s
    grid that they share with nothing else. `lookalike` adds movers of other colours and shapes and blank cards in
    about a tenth of the cells; `busy` holds three shape cards, two digit cards and two movers (more events than in
    training).
    Raises ValueError for an unknown world or a length_s below MIN_LENGTH_S.
    """
    if world not in WORLDS:
        raise ValueError(f"world {world!r} is unknown: one of {', '.join(WORLDS)} (data/synthetic.py).")
    if length_s < MIN_LENGTH_S[world]:
        raise ValueError(
            f"length_s={length_s} is too short for the events of world {world!r}: at least {MIN_LENGTH_S[world]} "
            "(data/synthetic.py)."
        )
    rng = np.random.default_rng([seed, index, WORLDS.index(world)])
    cast = BUSY_CAST if world == "busy" else USUAL_CAST
    events = _place_events(rng, _draw_events(rng, cast), length_s)
    if world == "lookalike":
        events += _draw_lookalikes(rng, events, length_s)
    events.sort(key=lambda event: event.start_s)
    return SyntheticVideo(seed, index, world, length_s, draw_scenes(rng, length_s), tuple(events))


def draw_duration_s(rng: np.random.Generator, kind: EventKind) -> int:
    """Seconds of one event: a quarter of the cards last one second (a single frame at 1 fps), movers last 4 to 8."""
    if kind == "mover":
        return int(rng.integers(4, 9))
    return 1 if rng.random() < 0.25 else int(rng.integers(2, 9))


def draw_event(
    rng: np.random.Generator, kind: EventKind, glyph: str, colour: str, start_s: float, end_s: float
) -> Event:
    """One event of the given looks and times, at a random place and of a random size."""
    if kind == "mover":
        # Along and across its path a mover's place is spread alike, so that no single frame tells its direction.
        travel = rng.uniform(0.5, 0.64)
        centre = (0.5 + travel * rng.uniform(-0.5, 0.5), 0.5 + travel * rng.uniform(-0.5, 0.5))
        direction = DIRECTIONS[rng.integers(len(DIRECTIONS))]
        size = rng.uniform(0.28, 0.42)
        return Event(kind, start_s, end_s, glyph, colour, centre, size, direction, travel)
    size = rng.uniform(0.40, 0.64)
    margin = size / 2 + 0.02
    centre = (rng.uniform(margin, 1 - margin), rng.uniform(margin, 1 - margin))
    return Event(kind, start_s, end_s, glyph, colour, centre, size, tilt=rng.uniform(-0.12, 0.12))


def draw_scene(rng: np.random.Generator, start_s: float = 0.0) -> Scene:
    """A texture of a random kind."""
    texture = TEXTURES[rng.integers(len(TEXTURES))]
    return Scene(start_s, texture, tuple(int(word) for word in rng.integers(0, 2**31, 2)))


def _draw_events(rng: np.random.Generator, cast: tuple[EventKind, ...]) -> list[tuple[EventKind, str, str]]:
    """Kind, glyph and colour of each event: no colour, shape or digit twice in one video."""
    colours = rng.permutation(list(COLOURS))
    shapes = list(rng.permutation(SHAPES))
    digits = list(rng.permutation(DIGITS))
    return [
        (kind, str(digits.pop() if kind == "digit_card" else shapes.pop()), str(colour))
        for kind, colour in zip(cast, colours, strict=False)
    ]


def _place_events(rng: np.random.Generator, looks: list[tuple[EventKind, str, str]], length_s: int) -> list[Event]:
    """Give every event a time: uniform over the video, in a random order, no two in one cell of the grid."""
    cells_free = np.ones(length_s // GROUP_S, bool)
    events = []
    for kind, glyph, colour in (looks[i] for i in rng.permutation(len(looks))):
        duration = draw_duration_s(rng, kind)
        if len(looks) > 3:
            duration = min(duration, 4)
        starts = _free_starts(cells_free, duration)
        while not len(starts) and duration > 1:  # only where many events crowd a short video
            duration -= 1
            starts = _free_starts(cells_free, duration)
        if not len(starts):
            continue
        start = int(rng.choice(starts))
        cells_free[start // GROUP_S : (start + duration - 1) // GROUP_S + 1] = False
        events.append(draw_event(rng, kind, glyph, colour, float(start), float(start + duration)))
    return events


def _free_starts(cells_free: np.ndarray, duration: int) -> np.ndarray:
    """Seconds at which an event of that duration would touch free cells alone."""
    starts = np.arange(len(cells_free) * GROUP_S - duration + 1)
    taken = np.concatenate([[0], np.cumsum(~cells_free)])
    return starts[taken[(starts + duration - 1) // GROUP_S + 1] == taken[starts // GROUP_S]]


def _draw_lookalikes(rng: np.random.Generator, events: list[Event], length_s: int) -> list[Event]:
    """Movers and blank cards that no question asks about, in about a tenth of the cells."""
    looks = {event.glyph for event in events}, {event.colour for event in events}
    shapes = [shape for shape in SHAPES if shape not in looks[0]]
    colours = [colour for colour in COLOURS if colour not in looks[1]]
    busy = {int(s) // GROUP_S for event in events for s in np.arange(event.start_s, event.end_s)}
    free = [cell for cell in range(length_s // GROUP_S) if cell not in busy]
    extra = []
    for cell in rng.permutation(free)[: max(1, length_s // GROUP_S // 10)]:
        kind: EventKind = "mover" if rng.random() < 0.7 else "blank_card"
        glyph = shapes[rng.integers(len(shapes))] if kind == "mover" else ""
        start = float(cell * GROUP_S)
        colour = colours[rng.integers(len(colours))]
        extra.append(draw_event(rng, kind, glyph, colour, start, start + GROUP_S))
    return extra


def draw_scenes(rng: np.random.Generator, length_s: float) -> tuple[Scene, ...]:
    """Textures that change every 12 to 60 s."""
    scenes = [draw_scene(rng)]
    while (start := scenes[-1].start_s + int(rng.integers(12, 61))) < length_s:
        scenes.append(draw_scene(rng, float(start)))
    return tuple(scenes)
