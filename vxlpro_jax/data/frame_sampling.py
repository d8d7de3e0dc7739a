"""Which frames of a video are looked at, when they are shown, and how a short last group is filled.

Source: SPEC.md section 5 (groups), section 13 (released rules of training and inference); paper 3.4 (variable sampling)
and 4.2 (fine-tuning).
Differs: `sample_fps` and "pad_last" are ours: real presentation times instead of index / fps, and no random frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

ShortGroup = Literal["pad_last", "released"]
_STAMP_DECIMALS = 1  # the released stamps show tenths of a second


@dataclass(frozen=True)
class FrameChoice:
    """Chosen frames. indices int64 [n], ascending (the released inference rule may repeat); times_s float64 [n];
    spacing_s: actual mean seconds from one chosen frame to the next (of a single one: what was asked for);
    duration_s: of the whole video, on the clock of times_s."""

    indices: np.ndarray
    times_s: np.ndarray
    spacing_s: float
    duration_s: float

    def __len__(self) -> int:
        return len(self.indices)


def sample_fps(
    times_s: Sequence[float] | np.ndarray, fps: float, max_frames: int | None = None, duration_s: float | None = None
) -> FrameChoice:
    """The real frames nearest to a grid of 1/fps seconds over [first, last frame]; no frame twice.

    times_s: presentation times of all frames, ascending. If the grid has more than max_frames points, the grid becomes
    max_frames points evenly over the whole. Between two equally near frames the earlier is taken.
    """
    times = np.asarray(times_s, np.float64)
    if times.ndim != 1 or not len(times) or not np.all(np.isfinite(times)) or np.any(np.diff(times) < 0):
        raise ValueError(f"times_s {list(times.shape)}: accepted are the ascending times of at least one frame.")
    _check_positive("fps", fps)
    if max_frames is not None:
        _check_positive("max_frames", max_frames)
    length_s = times[-1] - times[0]
    num_points = int(np.floor(length_s * fps + 1e-6)) + 1
    spacing_s = 1.0 / fps
    if max_frames is not None and min(num_points, len(times)) > max_frames:
        grid = np.linspace(times[0], times[-1], int(max_frames))
    elif num_points >= len(times) * 64:  # far finer than the frames: all of them, without building the grid
        grid = times
    else:
        grid = times[0] + np.arange(num_points) * spacing_s
    indices = np.unique(_nearest(times, grid))
    if len(indices) > 1:
        spacing_s = float(times[indices[-1]] - times[indices[0]]) / (len(indices) - 1)
    return FrameChoice(indices, times[indices], spacing_s, length_s + spacing_s if duration_s is None else duration_s)


def sample_uniform(times_s: Sequence[float] | np.ndarray, num_frames: int) -> np.ndarray:
    """Indices int64 of at most num_frames distinct frames, evenly over the time from the first frame to the last; all
    of them where a video has no more. times_s: ascending presentation times of at least one frame."""
    times = np.asarray(times_s, np.float64)
    _check_positive("num_frames", num_frames)
    if len(times) <= num_frames:
        return np.arange(len(times), dtype=np.int64)
    return np.unique(_nearest(times, np.linspace(times[0], times[-1], num_frames)))


def _nearest(times: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Index of the time nearest to each grid point, the earlier on a tie."""
    after = np.clip(np.searchsorted(times, grid), 1, max(1, len(times) - 1))
    after = np.minimum(after, len(times) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(grid - times[before] <= times[after] - grid + 1e-9, before, after).astype(np.int64)


def sample_released_inference(num_frames: int, fps: float, max_frames: int) -> FrameChoice:
    """Exactly max_frames frames by truncated linspace (short videos repeat frames); stamps: index / fps in tenths."""
    _check_positive("num_frames", num_frames)
    _check_positive("fps", fps)
    _check_positive("max_frames", max_frames)
    indices = np.linspace(0, num_frames - 1, max_frames, dtype=int).astype(np.int64)
    return _stamped(indices, num_frames, fps, scale=1)


def sample_released_training(
    total_frames: int, fps: float, video_fps: float = 1, frames_upbound: int = 0, scale: float = 1
) -> FrameChoice:
    """Every round(fps / video_fps)-th frame (halves to even); more than frames_upbound > 0: that many, by linspace.

    scale multiplies stamps and duration (a record's own clock). The reference fails where the step rounds to 0 (fewer
    than half as many frames per second as asked for); here the step is at least 1.
    """
    _check_positive("total_frames", total_frames)
    _check_positive("fps", fps)
    _check_positive("video_fps", video_fps)
    indices = np.arange(0, total_frames, max(1, round(fps / video_fps)), dtype=np.int64)
    if 0 < frames_upbound < len(indices):
        indices = np.linspace(0, total_frames - 1, frames_upbound, dtype=int).astype(np.int64)
    return _stamped(indices, total_frames, fps, scale)


def _stamped(indices: np.ndarray, num_frames: int, fps: float, scale: float) -> FrameChoice:
    """The released clock: index / fps rounded to tenths, then scaled."""
    times_s = np.array([round(int(index) / fps, _STAMP_DECIMALS) * scale for index in indices], np.float64)
    span = int(indices[-1] - indices[0]) / fps * scale
    spacing_s = span / (len(indices) - 1) if len(indices) > 1 else num_frames / fps * scale
    return FrameChoice(indices, times_s, spacing_s, num_frames / fps * scale)


def expand_short_group(
    num_frames: int,
    frames_per_group: int,
    mode: ShortGroup = "pad_last",
    rng: np.random.Generator | None = None,
    repeated: Sequence[int] | None = None,
) -> np.ndarray:
    """Source frame of every slot, int64 [G * frames_per_group]: whole groups out of num_frames frames.

    "pad_last": the last frame fills the last group. "released": as few frames as are missing, distinct and drawn by
    `rng` (or given as `repeated`), are repeated in place, order kept, which shifts later frames over group borders;
    fewer frames than one group: the last one fills it. Raises ValueError if "released" is given neither or bad indices.
    """
    _check_positive("num_frames", num_frames)
    _check_positive("frames_per_group", frames_per_group)
    if mode not in ("pad_last", "released"):
        raise ValueError(f"mode={mode!r}: 'pad_last' or 'released' (field short_group of the model's config).")
    num_missing = -num_frames % frames_per_group
    frames = np.arange(num_frames, dtype=np.int64)
    if mode == "pad_last" or num_frames < frames_per_group:
        return np.concatenate([frames, np.full(num_missing, num_frames - 1, np.int64)])
    if num_missing == 0:
        return frames
    if repeated is not None:
        chosen = np.asarray(repeated)
    elif rng is not None:
        chosen = rng.permutation(num_frames)[:num_missing]
    else:
        raise ValueError(
            f"mode='released' repeats {num_missing} random frames of {num_frames}: pass rng or the list `repeated`."
        )
    if chosen.dtype.kind not in "iu" or len(set(chosen.tolist())) != num_missing or len(chosen) != num_missing:
        raise ValueError(f"repeated={chosen.tolist()}: {num_missing} distinct frame indices complete the last group.")
    if chosen.min() < 0 or chosen.max() >= num_frames:
        raise ValueError(f"repeated={chosen.tolist()}: indices lie in 0 .. {num_frames - 1}.")
    return np.repeat(frames, np.where(np.isin(frames, chosen), 2, 1))


@dataclass(frozen=True)
class SamplingConfig:
    """How frames are chosen for training.

    rule: "variable": the paper's variable sampling (3.4). A video shorter than short_s is looked at with a rate drawn
        from short_fps, a longer one with long_fps; more than max_frames points become max_frames evenly over the whole.
        The paper says "2 fps, 3 fps, etc." for short ones, 1 fps for long ones, at most 360; what is short it doesn't
        say. Its fine-tuning (4.2: 1 fps, beyond 240 frames 240 evenly) is short_fps=(1.0,), max_frames=240.
        "released": the released trainer's rule (SPEC 13) with video_fps=long_fps and frames_upbound=max_frames.
    clip_frames: 0, or how many neighbouring ones of the frames so chosen are used, from a random one on (ReCoT).
    """

    rule: Literal["variable", "released"]
    short_s: float
    short_fps: tuple[float, ...]
    long_fps: float
    max_frames: int
    clip_frames: int

    def __post_init__(self):
        for name, value in (("short_fps", min(self.short_fps, default=0)), ("long_fps", self.long_fps)):
            _check_positive(f"sampling.{name}", value)
        _check_positive("sampling.max_frames", self.max_frames)
        if self.clip_frames < 0:
            raise ValueError(f"sampling.clip_frames={self.clip_frames}: 0 (the whole video) or a number of frames.")


def drawn_fps(config: SamplingConfig, duration_s: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """The rate float64 [n] at which videos of these lengths are looked at; draw: uint32 [n], one random number each."""
    rates = np.asarray(config.short_fps, np.float64)[np.asarray(draw, np.int64) % len(config.short_fps)]
    return np.where(np.asarray(duration_s) < config.short_s, rates, config.long_fps)


def count_frames(
    config: SamplingConfig, num_frames: np.ndarray, span_s: np.ndarray, duration_s: np.ndarray, draw: np.ndarray
) -> np.ndarray:
    """How many frames at most choose_training_frames will choose, int64 [n], from what the headers tell."""
    if config.rule == "released":
        step = np.maximum(1, np.round(num_frames / np.maximum(duration_s, 1e-9) / config.long_fps))
        count = np.ceil(num_frames / step)
    else:
        count = np.floor(span_s * drawn_fps(config, duration_s, draw) + 1e-6) + 1
    count = np.minimum(np.minimum(count, num_frames), config.max_frames)
    return np.minimum(count, config.clip_frames or config.max_frames).astype(np.int64)


def choose_training_frames(
    config: SamplingConfig, times_s: np.ndarray, duration_s: float, draw: int, scale: float = 1.0
) -> FrameChoice:
    """The frames of one training sample; all that is random in it follows from `draw`.

    scale: multiplies the stamps (SPEC 13). Stamps are the frames' own times, whatever the rate.
    """
    if config.rule == "released":
        fps = len(times_s) / duration_s if duration_s > 0 else config.long_fps
        choice = sample_released_training(len(times_s), fps, config.long_fps, config.max_frames, scale)
    else:
        rate = float(drawn_fps(config, np.array([duration_s]), np.array([draw]))[0])
        choice = sample_fps(times_s, rate, config.max_frames, duration_s)
        choice = FrameChoice(choice.indices, choice.times_s * scale, choice.spacing_s * scale, duration_s * scale)
    if 0 < config.clip_frames < len(choice):
        start = int(np.random.default_rng(draw).integers(len(choice) - config.clip_frames + 1))
        part = slice(start, start + config.clip_frames)
        choice = FrameChoice(choice.indices[part], choice.times_s[part], choice.spacing_s, choice.duration_s)
    return choice


def _check_positive(name: str, value: float) -> None:
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value}: a finite number above 0 is accepted.")
