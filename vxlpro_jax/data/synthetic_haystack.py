"""Haystacks for needle tests: long videos of moving texture, or any video file, in which events are hidden.

Source: ours (docs/needle.md). Frame i of a haystack does not depend on how long it is, nor on what is hidden in groups
of frames other than its own: a shorter haystack is the beginning of a longer one.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from vxlpro_jax.data.frame_sampling import sample_fps
from vxlpro_jax.data.synthetic import COLOURS, SHAPES, Event, draw_event, draw_scenes
from vxlpro_jax.data.synthetic_bank import resize_frame, through_codec
from vxlpro_jax.data.synthetic_files import CHUNK_FRAMES, write_frames
from vxlpro_jax.data.synthetic_render import paint_event, render, to_pixels
from vxlpro_jax.data.video_decode import open_video

QUANTIZER = 23  # of the files; x264's usual quality
NUM_NEEDLE_LOOKS = 2  # shapes, and colours, that no mover of the haystack has
SCENE_SALT, MOVER_SALT, LOOK_SALT = 31, 32, 33


@dataclass(frozen=True)
class HaystackSettings:
    """What the needles are hidden in.

    file: a video file; empty: moving texture is generated. num_haystacks: different ones (of a file there is one).
    num_frames: of each. mover_share: share of the groups that hold a mover that no question is about. size: (height,
    width), both even. fps: frames per second, of the haystack and of what is taken from the file. frames_per_group: as
    the model has it.
    """

    file: str
    num_haystacks: int
    num_frames: int
    mover_share: float
    size: tuple[int, int]
    fps: float
    frames_per_group: int


class Haystack:
    """One haystack: its frames, with or without events hidden in them.

    needle_shapes, needle_colours: looks that no mover of the haystack has, so that a needle can be named by either.
    """

    def __init__(self, settings: HaystackSettings, seed: int, number: int):
        """Draws what happens, not the pixels."""
        self.settings, self.seed, self.number = settings, seed, number
        looks = np.random.default_rng([seed, number, LOOK_SALT])
        shapes, colours = ([str(name) for name in looks.permutation(list(pool))] for pool in (SHAPES, COLOURS))
        self.needle_shapes, self.needle_colours = shapes[:NUM_NEEDLE_LOOKS], colours[:NUM_NEEDLE_LOOKS]
        self._mover_looks = shapes[NUM_NEEDLE_LOOKS:], colours[NUM_NEEDLE_LOOKS:]
        length_s = settings.num_frames / settings.fps
        self._scenes = draw_scenes(np.random.default_rng([seed, number, SCENE_SALT]), length_s)

    @cached_property
    def movers(self) -> dict[int, Event]:
        """The movers that no question is about, by the group that they fill."""
        num_groups = self.settings.num_frames // self.settings.frames_per_group
        chosen = np.random.default_rng([self.seed, self.number, MOVER_SALT]).random(num_groups)
        return {int(group): self._mover(int(group)) for group in np.flatnonzero(chosen < self.settings.mover_share)}

    def _mover(self, group: int) -> Event:
        rng = np.random.default_rng([self.seed, self.number, MOVER_SALT, group])
        shapes, colours = self._mover_looks
        look = shapes[rng.integers(len(shapes))], colours[rng.integers(len(colours))]
        return draw_event(rng, "mover", *look, *(self.time_s(group + end) for end in (0, 1)))

    def time_s(self, group: int) -> float:
        """When a group begins."""
        return group * self.settings.frames_per_group / self.settings.fps

    def groups_of(self, events: Sequence[Event]) -> list[int]:
        """Numbers of the groups that show any of the events, ascending."""
        per_group, fps = self.settings.frames_per_group, self.settings.fps
        bounds = [(round(event.start_s * fps), round(event.end_s * fps)) for event in events]
        return sorted({frame // per_group for start, end in bounds for frame in range(start, end)})

    def touched(self, events: Sequence[Event]) -> np.ndarray:
        """uint8 [n, H, W, 3]: the frames of groups_of(events), as a reader of the written file finds them."""
        per_group = self.settings.frames_per_group
        numbers = [group * per_group + place for group in self.groups_of(events) for place in range(per_group)]
        with self._empty() as empty:
            return through_codec(self._painted(empty, np.array(numbers), events), QUANTIZER, per_group)

    def write(self, path: Path, num_frames: int, events: Sequence[Event] = ()) -> None:
        """Writes the first num_frames frames, with events in them, as H.264. Raises OSError, VideoError."""
        settings = self.settings
        frames = self._all_frames(num_frames, events)
        write_frames(frames, path, settings.size, settings.fps, QUANTIZER, settings.frames_per_group)

    def _all_frames(self, num_frames: int, events: Sequence[Event]) -> Iterator[np.ndarray]:
        with self._empty() as empty:
            for start in range(0, num_frames, CHUNK_FRAMES):
                yield from self._painted(empty, np.arange(start, min(num_frames, start + CHUNK_FRAMES)), events)

    @contextmanager
    def _empty(self) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
        """Gives the function from frame numbers [n] to frames uint8 [n, H, W, 3] in which nothing is hidden yet."""
        settings = self.settings
        if not settings.file:
            yield lambda numbers: render(self._scenes, (), numbers / settings.fps, settings.size)
            return
        with open_video(settings.file) as video:
            indices = sample_fps(video.times_s, settings.fps).indices

            def of_file(numbers: np.ndarray) -> np.ndarray:
                found = np.asarray(video.read(indices[numbers]))
                return np.stack([resize_frame(frame, *settings.size) for frame in found])

            yield of_file

    def _painted(
        self, empty: Callable[[np.ndarray], np.ndarray], numbers: np.ndarray, events: Sequence[Event]
    ) -> np.ndarray:
        """uint8 [n, H, W, 3] of these frames; in a group that shows an event there is no mover."""
        settings = self.settings
        hidden = set(self.groups_of(events))
        shown = {int(group) for group in np.unique(numbers // settings.frames_per_group)} - hidden
        frames = empty(numbers).astype(np.float32)
        for event in (*(self.movers[group] for group in sorted(shown & self.movers.keys())), *events):
            paint_event(frames, event, numbers / settings.fps)
        return to_pixels(frames)


def count_file_frames(settings: HaystackSettings) -> int:
    """How many frames the file has at the rate of the settings. Raises VideoError, OSError."""
    with open_video(settings.file) as video:
        return len(sample_fps(video.times_s, settings.fps))


def first_frame(num_frames: int, depth: float, needle_len: int, phase: int, frames_per_group: int) -> int:
    """Where a needle of needle_len frames begins: at `depth` (0 to 1) of the haystack, in place `phase` of a group.

    Raises ValueError where it does not fit.
    """
    last_group = (num_frames - needle_len - phase) // frames_per_group
    if last_group < 0:
        raise ValueError(f"a needle of {needle_len} frames from place {phase} on does not fit {num_frames} frames.")
    return round(depth * last_group) * frames_per_group + phase
