"""A bank of labelled groups of frames from the generated world, for training: every group holds its own event.

Source: ours (docs/tiny.md). Frames pass through H.264 and the resize, as those of a real file do; training would
otherwise never see what a codec does to small cards. A video of the bank is one stream of texture in which every
group of four frames is drawn apart.
"""

import io
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import av
import numpy as np
from PIL import Image

from vxlpro_jax.data.synthetic import COLOURS, DIGITS, DIRECTIONS, SHAPES, EventKind, draw_event, draw_scene
from vxlpro_jax.data.synthetic_files import encode_frames
from vxlpro_jax.data.synthetic_render import mover_place, paint_event, render, to_pixels

KINDS: tuple[EventKind | Literal["none"], ...] = ("none", "shape_card", "digit_card", "mover", "blank_card")
KIND_SHARES = (0.14, 0.26, 0.32, 0.25, 0.03)
GLYPHS = (*SHAPES, *DIGITS)
COLOUR_NAMES = tuple(COLOURS)
GROUPS_PER_VIDEO, QUARTERS = 16, 4
MIN_FRAMES_OF_MOTION = 2  # a mover seen in one frame alone has no direction
DrawVideo: TypeAlias = Callable[..., "GroupBank"]  # (seed, index, image_size, frames_per_group), as bank_video
QUANTIZERS = 18, 31  # of the files: from, and up to but not including
TEXTURE_FRAMES = 2, 10  # of one texture in a video of many, likewise
STRETCHED_SHARE = 0.2  # of painted groups: drawn on a wider canvas, which the resize squashes
# (height, width) of the encoded file: mostly the world's default, some others, and wide ones that the resize squashes.
SIZES = ((112, 112), (56, 56), (84, 84), (168, 168), (72, 128), (96, 128), (108, 192))
SIZE_SHARES = (0.45, 0.08, 0.12, 0.05, 0.15, 0.08, 0.07)


@dataclass(frozen=True)
class GroupBank:
    """G groups of frames and what they show.

    frames uint8 [G, 4, S, S, 3]; kind, glyph, colour, direction int8 [G]: indices into KINDS, GLYPHS, COLOUR_NAMES and
    DIRECTIONS, -1 where there is none; shown bool [G, 4]: the frames in which the event is visible; column, row int8
    [G, 4]: in which quarter of the width and of the height its middle lies, frame by frame, -1 where nothing is shown.
    """

    frames: np.ndarray
    kind: np.ndarray
    glyph: np.ndarray
    colour: np.ndarray
    direction: np.ndarray
    shown: np.ndarray
    column: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.kind)


def build_bank(
    seed: int,
    num_videos: int,
    image_size: int,
    frames_per_group: int,
    workers: int,
    draw: DrawVideo | None = None,
) -> Iterator[GroupBank]:
    """The bank's videos in order, each drawn by `draw` (bank_video) in one of `workers` processes; video i does not
    depend on num_videos."""
    render_one = partial(draw or bank_video, seed, image_size=image_size, frames_per_group=frames_per_group)
    if workers <= 1:
        yield from map(render_one, range(num_videos))
        return
    # Spawned: the caller's process may hold threads (jax does), with which a fork can hang.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(render_one, range(num_videos), chunksize=8)


def join_banks(banks: list[GroupBank]) -> GroupBank:
    """One bank of all the groups."""
    return GroupBank(
        *(np.concatenate([getattr(bank, name) for bank in banks]) for name in GroupBank.__dataclass_fields__)
    )


def bank_video(seed: int, index: int, image_size: int, frames_per_group: int) -> GroupBank:
    """One video of the bank: sixteen groups over one texture, encoded, decoded and resized."""
    rng = np.random.default_rng([seed, index])
    size = SIZES[rng.choice(len(SIZES), p=SIZE_SHARES)]
    times_s = np.arange(GROUPS_PER_VIDEO * frames_per_group, dtype=np.float64) + rng.integers(0, 1000)
    frames = render((draw_scene(rng),), (), times_s, size).astype(np.float32)
    labels: dict[str, list] = {name: [] for name in GroupBank.__dataclass_fields__ if name != "frames"}
    for group in range(GROUPS_PER_VIDEO):
        kind = int(rng.choice(len(KINDS), p=KIND_SHARES))
        part = slice(group * frames_per_group, (group + 1) * frames_per_group)
        for name, value in _paint_group(rng, frames[part], times_s[part], kind).items():
            labels[name].append(value)
    small = recorded(rng, to_pixels(frames), image_size)
    arrays = {name: np.array(values, bool if name == "shown" else np.int8) for name, values in labels.items()}
    return GroupBank(small.reshape(GROUPS_PER_VIDEO, frames_per_group, image_size, image_size, 3), **arrays)


def texture_video(seed: int, index: int, image_size: int, frames_per_group: int) -> GroupBank:
    """Sixteen groups without an event, of as many textures as there is room for; about half of them show two."""
    rng = np.random.default_rng([seed, index])
    num_frames = GROUPS_PER_VIDEO * frames_per_group
    scenes = [draw_scene(rng)]
    while (start := scenes[-1].start_s + int(rng.integers(*TEXTURE_FRAMES))) < num_frames:
        scenes.append(draw_scene(rng, start))
    size = SIZES[rng.choice(len(SIZES), p=SIZE_SHARES)]
    frames = to_pixels(render(tuple(scenes), (), np.arange(float(num_frames)), size))
    return unlabelled_groups(recorded(rng, frames, image_size).reshape(-1, frames_per_group, image_size, image_size, 3))


def unlabelled_groups(frames: np.ndarray) -> GroupBank:
    """Groups [G, F, S, S, 3] of frames in which nothing is to be found."""
    count, per_group = frames.shape[:2]
    nothing, nowhere = np.full(count, -1, np.int8), np.full((count, per_group), -1, np.int8)
    shown = np.zeros((count, per_group), bool)
    return GroupBank(frames, np.zeros(count, np.int8), nothing, nothing, nothing, shown, nowhere, nowhere)


def recorded(rng: np.random.Generator, frames: np.ndarray, image_size: int) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] as a model gets them from a file of some quality: [T, image_size, image_size, 3]."""
    decoded = through_codec(frames, crf=int(rng.integers(*QUANTIZERS)))
    return np.stack([resize_frame(frame, image_size, image_size) for frame in decoded])


def _paint_group(rng: np.random.Generator, frames: np.ndarray, times_s: np.ndarray, kind: int) -> dict:
    """Draw one random event of a kind (index into KINDS) into a group of frames; returns its labels."""
    shown, nowhere = np.zeros(len(times_s), bool), np.full(len(times_s), -1)
    label: dict[str, Any] = {"kind": kind, "glyph": -1, "colour": -1, "direction": -1, "shown": shown}
    label |= {"column": nowhere, "row": nowhere.copy()}
    name = KINDS[kind]
    if name == "none":
        return label
    glyphs = range(len(SHAPES)) if name in ("shape_card", "mover") else range(len(SHAPES), len(GLYPHS))
    glyph, colour = int(rng.choice(glyphs)), int(rng.integers(len(COLOUR_NAMES)))
    first, last = draw_window(rng, len(times_s))
    start, end = float(times_s[first]), float(times_s[last]) + 1
    if name == "mover":  # a window onto a longer path
        duration = int(rng.integers(4, 9))
        start += -int(rng.integers(0, duration)) if first == 0 else 0
        end = start + duration
    event = draw_event(rng, name, "" if name == "blank_card" else GLYPHS[glyph], COLOUR_NAMES[colour], start, end)
    label["shown"] = (times_s >= start) & (times_s < end)
    paint_event(frames, event, times_s)
    for t in np.flatnonzero(label["shown"]):
        x, y = mover_place(event, times_s[t]) if name == "mover" else event.centre
        label["column"][t], label["row"][t] = np.clip([x * QUARTERS, y * QUARTERS], 0, QUARTERS - 1).astype(int)
    if name != "blank_card":
        label["glyph"], label["colour"] = glyph, colour
    if name == "mover":
        label["direction"] = DIRECTIONS.index(event.direction)
    return label


def take(bank: GroupBank, chosen: np.ndarray) -> GroupBank:
    """The chosen groups [N], copied."""
    return GroupBank(*(getattr(bank, name)[chosen] for name in GroupBank.__dataclass_fields__))


def take_frames(bank: GroupBank, chosen: np.ndarray, frame: np.ndarray) -> GroupBank:
    """One frame of each chosen group: groups of a single frame; chosen, frame int [N]."""
    parts = {name: getattr(bank, name) for name in GroupBank.__dataclass_fields__}
    return GroupBank(**{k: v[chosen, frame][:, None] if v.ndim > 1 else v[chosen] for k, v in parts.items()})


def repaint(rng: np.random.Generator, groups: GroupBank, bank: GroupBank, empty: np.ndarray, share: float) -> None:
    """Replace a random `share` of the groups, in place, by new events of their kind, painted over empty groups of the
    bank.

    A bank holds few thousand cards and a model learns them by heart; painted ones (no codec, at the tower's size) never
    repeat. empty: groups of the bank without an event.
    """
    for place in np.flatnonzero(rng.random(len(groups)) < share):
        frames = bank.frames[empty[rng.integers(len(empty))], : groups.shown.shape[1]]
        side = frames.shape[1]
        width = int(side * rng.uniform(1.2, 1.8)) if rng.random() < STRETCHED_SHARE else side
        canvas = np.stack([resize_frame(frame, side, width) for frame in frames]).astype(np.float32)
        label = _paint_group(rng, canvas, np.arange(float(len(frames))), int(groups.kind[place]))
        groups.frames[place] = np.stack([resize_frame(frame, side, side) for frame in to_pixels(canvas)])
        for name, value in label.items():
            getattr(groups, name)[place] = value


def draw_window(rng: np.random.Generator, length: int) -> tuple[int, int]:
    """First and last visible frame of a group: all, one, or any run of them."""
    choice = rng.random()
    if choice < 0.3:
        return 0, length - 1
    if choice < 0.62:
        only = int(rng.integers(length))
        return only, only
    first, last = sorted(rng.integers(0, length, 2))
    return int(first), int(last)


def resize_frame(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """A frame uint8 [H, W, 3] at another size, bicubic."""
    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))


def through_codec(frames: np.ndarray, crf: int, group_len: int = 0) -> np.ndarray:
    """uint8 [T, H, W, 3] encoded as H.264 in memory and decoded again; group_len: see encode_frames."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        encode_frames(container, iter(frames), frames.shape[1:3], 1.0, crf, group_len)
    buffer.seek(0)
    with av.open(buffer, "r") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def save_bank(bank: GroupBank, path: str | Path) -> None:
    """Write the bank as one .npz, beside and renamed."""
    path = Path(path)
    part = path.with_name(f".part-{path.name}")
    np.savez(part, **{name: getattr(bank, name) for name in GroupBank.__dataclass_fields__})
    part.replace(path)


def load_bank(path: str | Path) -> GroupBank:
    """The bank that save_bank wrote."""
    with np.load(path) as file:
        return GroupBank(**{name: file[name] for name in GroupBank.__dataclass_fields__})
