"""A video streamed through the encoder into an index, decoding ahead of the device.

Source: SPEC 2 to 8. Frames travel in batches of a few fixed sizes; device memory does not grow with the video.
"""

import hashlib
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from vxlpro_jax.data.batching import bucket
from vxlpro_jax.data.frame_sampling import FrameChoice, expand_short_group, sample_fps, sample_released_inference
from vxlpro_jax.data.image_transforms import anyres_views, preprocess
from vxlpro_jax.data.video_decode import Video, VideoError
from vxlpro_jax.infer.generate import encode_frames
from vxlpro_jax.infer.video_index import VideoIndex
from vxlpro_jax.models.presets import VideoXLProConfig, config_to_dict
from vxlpro_jax.models.video_xl_pro import VideoXLProModel

Progress = Callable[[int, int], None]
"""Called with (frames done, frames in all)."""

ENCODER_PARTS = ("vision_tower", "dts", "projector")
PREPROCESSING = "stretched, bicubic with antialiasing, -1 to 1"  # data/image_transforms.py; part of the fingerprint
RELEASED_MAX_FRAMES = 128  # SPEC 12, quirk 9


class SampledFrames(NamedTuple):
    """A stretch of chosen frames on the way to the encoder. pixels float32 [n, S, S, 3]; positions: places among the
    chosen frames; lost: indices of frames that cannot be decoded; read_s: seconds that reading took."""

    pixels: np.ndarray
    positions: np.ndarray
    lost: tuple[int, ...]
    read_s: float


def encoder_fingerprint(config: VideoXLProConfig, params: Any) -> str:
    """Identifies tower, DTS, projector, their switches and preprocessing: what an index depends on. Not the LLM."""
    digest = hashlib.blake2b(digest_size=16)
    switches = {part: value for part, value in config_to_dict(config).items() if part in ("vision", "dts", "projector")}
    digest.update(f"{PREPROCESSING} {sorted(switches.items())}".encode())
    leaves = jax.tree_util.tree_leaves_with_path({part: params[part] for part in ENCODER_PARTS})
    for path, leaf in leaves:
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).view(np.uint8).data)
    return digest.hexdigest()


def choose_frames(video: Video, rule: Literal["fps", "released"], fps: float, max_frames: int | None) -> FrameChoice:
    """Which frames are looked at. "fps": real frames nearest to a grid of 1 / fps, at most max_frames. "released":
    exactly max_frames (RELEASED_MAX_FRAMES unless given) by truncated linspace, times from index / fps (SPEC 13)."""
    if rule == "released":
        nominal_fps = video.num_frames / video.duration_s if video.duration_s > 0 else 1.0
        count = RELEASED_MAX_FRAMES if max_frames is None else max_frames
        return sample_released_inference(video.num_frames, nominal_fps, count)
    if rule != "fps":
        raise ValueError(f"sampling {rule!r}: 'fps' or 'released' is accepted")
    return sample_fps(video.times_s, fps, max_frames, video.duration_s)


def index_video(
    model: VideoXLProModel,
    params: Any,
    fingerprint: str,
    video: Video,
    choice: FrameChoice,
    source: dict[str, Any],
    sampling: dict[str, Any],
    on_damage: Literal["raise", "skip"],
    frames_per_batch: int,
    seed: int,
    progress: Progress | None = None,
) -> VideoIndex:
    """Encodes the chosen frames. Raises VideoError when damage took frames and on_damage is "raise", or when none is
    left.

    seed: which frames are doubled when the config's short_group is "released".
    """
    config = model.config
    size = config.dts.frames_per_group
    slots = np.arange(len(choice))  # "pad_last": the encoder fills the last group
    if config.short_group == "released":
        slots = expand_short_group(len(choice), size, config.short_group, rng=np.random.default_rng(seed))
    groups = _GroupEncoder(model, params, frames_per_batch)
    positions: list[np.ndarray] = []
    lost: list[int] = []
    read_s = 0.0
    # closing: the reading thread has ended, whatever happens here, before the caller closes the video.
    with closing(_ahead(_read(video, choice.indices[slots], config.vision.image_size, on_damage))) as chunks:
        for chunk in chunks:
            positions.append(chunk.positions)
            lost += chunk.lost
            read_s += chunk.read_s
            groups.add(chunk.pixels)
            if progress:
                progress(sum(map(len, positions)), len(slots))
    used = slots[np.concatenate(positions)]
    if not len(used):
        raise VideoError(video.path, "none of the chosen frames can be decoded", lost)
    tokens = groups.finish()
    spared = config.short_group == "released" and not lost  # stamps of the list before doubling (quirk 9)
    times = choice.times_s[::size] if spared else choice.times_s[used][::size]
    last_end_s = min(choice.times_s[used[-1]] + choice.spacing_s, choice.duration_s)
    return VideoIndex(
        tokens=tokens,
        group_times_s=np.asarray(times, np.float64),
        frame_times_s=choice.times_s[used],
        frame_indices=choice.indices[used],
        end_s=float(max(last_end_s, times[-1])),
        kind="video",
        fingerprint=fingerprint,
        sampling=sampling | {"spacing_s": choice.spacing_s},
        source=source,
        lost=tuple(sorted(set(lost))),
        timings={"read_s": read_s, "encode_s": groups.seconds},
    )


def index_picture(
    model: VideoXLProModel, params: Any, fingerprint: str, picture: np.ndarray, source: dict[str, Any]
) -> VideoIndex:
    """Encodes one picture, uint8 RGB [H, W, 3]: the whole, or for "anyres" the tiles of its canvas, each standing still
    for a group.

    The released code encodes the whole picture beside the tiles and throws it away (quirk 10): here it is left out.
    """
    config = model.config
    tile = config.vision.image_size
    views = anyres_views(picture, tile)[1:] if config.picture_views == "anyres" else picture[None]
    pixels = preprocess(views, tile)
    groups = _GroupEncoder(model, params, config.dts.frames_per_group * 4)
    for view in pixels:
        groups.add(np.repeat(view[None], config.dts.frames_per_group, axis=0))
    return VideoIndex(
        tokens=groups.finish(),
        group_times_s=np.zeros(len(views)),
        frame_times_s=np.zeros(len(views)),
        frame_indices=np.zeros(len(views), np.int64),
        end_s=0.0,
        kind="picture",
        fingerprint=fingerprint,
        sampling={"rule": "picture", "views": config.picture_views, "spacing_s": 0.0},
        source=source,
        timings={"read_s": 0.0, "encode_s": groups.seconds},
    )


class _GroupEncoder:
    """Collects frames into batches and encodes them; a short last batch is padded to the next of a few sizes."""

    def __init__(self, model: VideoXLProModel, params: Any, frames_per_batch: int):
        self.model, self.params = model, params
        self.group = model.config.dts.frames_per_group
        self.batch_len = max(self.group, frames_per_batch - frames_per_batch % self.group)
        self.waiting: list[np.ndarray] = []
        self.tokens: list[np.ndarray] = []
        self.seconds = 0.0

    def add(self, pixels: np.ndarray) -> None:
        """pixels float32 [n, S, S, 3]."""
        self.waiting.append(pixels)
        while sum(map(len, self.waiting)) >= self.batch_len:
            frames = np.concatenate(self.waiting)
            self.waiting = [frames[self.batch_len :]]
            self._encode(frames[: self.batch_len])

    def finish(self) -> np.ndarray:
        """The tokens [G, P, D] of all frames; the last group is filled with the last frame."""
        rest = np.concatenate(self.waiting) if self.waiting else np.zeros((0,))
        if len(rest):
            self._encode(rest)
        return np.concatenate(self.tokens)

    def _encode(self, frames: np.ndarray) -> None:
        start = time.perf_counter()
        num_groups = -(-len(frames) // self.group)
        padded_len = min(self.group * bucket(num_groups, 1), self.batch_len)
        padded = np.concatenate([frames, np.repeat(frames[-1:], padded_len - len(frames), axis=0)])
        self.tokens.append(np.asarray(encode_frames(self.model, self.params, padded))[:num_groups])
        self.seconds += time.perf_counter() - start


def _read(
    video: Video, indices: np.ndarray, image_size: int, on_damage: Literal["raise", "skip"]
) -> Iterator[SampledFrames]:
    """The frames in stretches of bounded bytes, whatever their size (see Video.read_chunks)."""
    start = time.perf_counter()
    for chunk in video.read_chunks(indices, on_damage=on_damage):
        pixels = preprocess(chunk.frames, image_size)
        yield SampledFrames(pixels, chunk.positions, chunk.lost, time.perf_counter() - start)
        start = time.perf_counter()


def _ahead(items: Iterator[SampledFrames]) -> Generator[SampledFrames]:
    """The same items, the next one being made in a thread while the last is used."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item
