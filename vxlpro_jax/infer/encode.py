"""A video streamed through the encoder into an index, decoding ahead of the device.

Source: SPEC 2 to 8. Frames travel in batches of a few fixed sizes; device memory does not grow with the video.
"""

import hashlib
import time
from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from vxlpro_jax.data.frame_sampling import FrameChoice, expand_short_group, sample_fps, sample_released_inference
from vxlpro_jax.data.image_transforms import anyres_views, preprocess
from vxlpro_jax.data.video_decode import Video, VideoError
from vxlpro_jax.infer.frame_batches import FrameBatch, frame_batches, padded_len
from vxlpro_jax.infer.generate import encode_frames
from vxlpro_jax.infer.index_files import open_header
from vxlpro_jax.infer.index_writer import EncodedBatch, IndexInMemory, IndexSink, IndexWriter, KeptFrames
from vxlpro_jax.infer.video_index import VideoIndex
from vxlpro_jax.models.presets import VideoXLProConfig, config_to_dict
from vxlpro_jax.models.video_xl_pro import VideoXLProModel

Progress = Callable[[int, int], None]
"""Called with (frames done, frames in all)."""

ENCODER_PARTS = ("vision_tower", "dts", "projector")
PREPROCESSING = "stretched, bicubic with antialiasing, -1 to 1"  # data/image_transforms.py; part of the fingerprint
RELEASED_MAX_FRAMES = 128  # SPEC 12, quirk 9
VIEWS_PER_BATCH = 4  # tiles of a picture
SAME_BATCH = 0.05  # of the tokens' spread: another machine rounds otherwise, another picture differs by about 1


_ANEW = "if it is another video, index it anew under another name"


@dataclass(frozen=True)
class IndexOptions:
    """How a video is indexed; see VideoXLPro.index. output: the index is written there while it is made."""

    sampling: Literal["fps", "released"]
    fps: float
    max_frames: int | None
    on_damage: Literal["raise", "skip"]
    frames_per_batch: int
    seed: int
    output: Path | None = None
    append: bool = False


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
    source: dict[str, Any],
    options: IndexOptions,
    progress: Progress | None = None,
) -> VideoIndex:
    """Encodes the chosen frames of a video.

    Raises VideoError when damage took frames and on_damage is "raise", or when none is left; ValueError and
    FileExistsError when options.output holds what cannot be gone on with (see IndexWriter).
    """
    config = model.config
    size = config.dts.frames_per_group
    choice = choose_frames(video, options.sampling, options.fps, options.max_frames)
    sampling = {"rule": options.sampling, "fps": options.fps, "max_frames": options.max_frames}
    slots = np.arange(len(choice))  # "pad_last": the last batch is filled with the last frame
    if config.short_group == "released":
        slots = expand_short_group(len(choice), size, config.short_group, rng=np.random.default_rng(options.seed))
        sampling["short_group_seed"] = options.seed
    if options.append:
        _check_appendable(config, video, choice, options)
    batch_groups = max(1, options.frames_per_batch // size)
    sampling["spacing_s"] = choice.spacing_s
    header = open_header(fingerprint, "video", source, sampling, batch_groups)
    work = _Encoding(model, params, video, choice, slots, batch_groups * size, options.on_damage)
    if options.output is None:
        with nullcontext(IndexInMemory(header, -(-len(slots) // size))) as sink:
            return work.run(sink, progress)
    with IndexWriter(options.output, header, size, options.append) as writer:
        if writer.is_current:
            return VideoIndex.load(options.output)
        if options.append:
            kept_slots = work.kept_slots(writer.kept)
            if len(kept_slots):
                work.check_beginning(kept_slots, writer.last_kept_tokens(batch_groups))
            for chunk in video.read_chunks(writer.kept.lost, on_damage="skip"):
                if len(chunk.indices):  # lost no longer: it moves all that follows
                    writer.forget_from(int(chunk.indices[0]))
                    break
        writer.begin()
        return work.run(writer, progress)


def index_picture(
    model: VideoXLProModel, params: Any, fingerprint: str, picture: np.ndarray, source: dict[str, Any]
) -> VideoIndex:
    """Encodes one picture, uint8 RGB [H, W, 3]: the whole, or for "anyres" the tiles of its canvas, each standing still
    for a group.

    The released code encodes the whole picture beside the tiles and throws it away (quirk 10): here it is left out.
    """
    config, began = model.config, time.perf_counter()
    size, tile = config.dts.frames_per_group, config.vision.image_size
    views = anyres_views(picture, tile)[1:] if config.picture_views == "anyres" else picture[None]
    pixels = preprocess(views, tile)
    tokens = []
    for start in range(0, len(pixels), VIEWS_PER_BATCH):
        shown = pixels[start : start + VIEWS_PER_BATCH]
        num_views = padded_len(len(shown), 1, VIEWS_PER_BATCH)
        padded = np.concatenate([shown, np.repeat(shown[-1:], num_views - len(shown), axis=0)])
        tokens.append(np.asarray(encode_frames(model, params, np.repeat(padded, size, axis=0)))[: len(shown)])
    return VideoIndex(
        tokens=np.concatenate(tokens),
        group_times_s=np.zeros(len(views)),
        frame_times_s=np.zeros(len(views)),
        frame_indices=np.zeros(len(views), np.int64),
        end_s=0.0,
        kind="picture",
        fingerprint=fingerprint,
        sampling={"rule": "picture", "views": config.picture_views, "spacing_s": 0.0},
        source=source,
        timings={"read_s": 0.0, "encode_s": time.perf_counter() - began},
    )


def _check_appendable(config: VideoXLProConfig, video: Video, choice: FrameChoice, options: IndexOptions) -> None:
    """Raises ValueError where frames of a longer video would not be those of the shorter one and some more."""
    if options.sampling != "fps":
        raise ValueError(f"append with sampling={options.sampling!r}: a longer video is looked at elsewhere; use 'fps'")
    if config.short_group != "pad_last":
        raise ValueError(
            f"append with short_group={config.short_group!r} of this model's config: it doubles frames anywhere; "
            "load with switches={'short_group': 'pad_last'}"
        )
    uncapped = choose_frames(video, "fps", options.fps, None)
    if not np.array_equal(uncapped.indices, choice.indices):
        raise ValueError(
            f"append with max_frames={options.max_frames}: {video.path} has {len(uncapped)} frames at "
            f"fps={options.fps}, so the cap spreads them anew over the whole; index it anew, or leave max_frames out"
        )


@dataclass
class _Encoding:
    """A video on its way through the encoder. slots: the chosen frames as they are encoded, places in choice."""

    model: VideoXLProModel
    params: Any
    video: Video
    choice: FrameChoice
    slots: np.ndarray
    batch_len: int
    on_damage: Literal["raise", "skip"]

    def __post_init__(self):
        self.group = self.model.config.dts.frames_per_group
        self.timings = {"read_s": 0.0, "encode_s": 0.0}

    def kept_slots(self, kept: KeptFrames) -> np.ndarray:
        """Where the frames that need not be encoded again stand among the slots. Raises ValueError where they don't."""
        indices, times = self.choice.indices[self.slots], self.choice.times_s[self.slots]
        good = np.flatnonzero(~np.isin(indices, kept.lost))[: len(kept.frame_indices)]
        same = np.array_equal(indices[good], kept.frame_indices) and np.array_equal(times[good], kept.frame_times_s)
        if not same:
            raise ValueError(f"{self.video.path} does not begin with the frames of the index; {_ANEW}")
        return good

    def check_beginning(self, kept_slots: np.ndarray, tokens: np.ndarray) -> None:
        """Encodes the last batch that is kept once more. Raises ValueError where it shows something else."""
        places = kept_slots[-self.batch_len :]
        with closing(self._encoded(places)) as batches:
            again = np.concatenate([found for _, _, found in batches])
        distance = (
            np.abs(again.astype(np.float32) - tokens.astype(np.float32)).mean() if len(again) == len(tokens) else np.inf
        )
        if not distance <= SAME_BATCH * tokens.astype(np.float32).std():
            raise ValueError(f"{self.video.path} shows something else than what was indexed; {_ANEW}")

    def run(self, sink: IndexSink, progress: Progress | None) -> VideoIndex:
        """Encodes what is not kept."""
        released = self.model.config.short_group == "released"
        done = self.kept_slots(sink.kept)
        start = last = int(done[-1]) + 1 if len(done) else 0
        num_groups = sink.kept.num_groups
        told, later = set(sink.kept.lost.tolist()), set[int]()  # losses before and after the last encoded frame
        with closing(self._encoded(np.arange(start, len(self.slots)))) as batches:
            for positions, lost, tokens in batches:
                later |= {*lost} - told
                if not len(positions):
                    continue
                used = self.slots[positions]
                indices = self.choice.indices[used]
                before = sorted(index for index in later if index < indices[-1])
                told |= {*before}
                later -= told
                times = self.choice.times_s[used][:: self.group]
                if released and not told:  # stamps of the list before doubling (quirk 9)
                    times = self.choice.times_s[:: self.group][num_groups : num_groups + len(tokens)]
                sink.add(EncodedBatch(tokens, times, self.choice.times_s[used], indices, before))
                num_groups += len(tokens)
                last = int(positions[-1]) + 1
                if progress:
                    progress(last, len(self.slots))
        if not last:
            raise VideoError(self.video.path, "none of the chosen frames can be decoded", sorted(later))
        last_s = self.choice.times_s[self.slots[last - 1]]
        end_s = float(max(min(last_s + self.choice.spacing_s, self.choice.duration_s), last_s))
        return sink.finish(sorted(later), end_s, self.timings)

    def _encoded(self, places: np.ndarray) -> Generator[tuple[np.ndarray, tuple[int, ...], np.ndarray]]:
        """(places among the slots, lost frames found since the last, tokens [G, P, D]) of each batch.

        The device has the next batch while these tokens are fetched.
        """
        indices, image_size = self.choice.indices[self.slots[places]], self.model.config.vision.image_size
        waiting: tuple[FrameBatch, Any] | None = None
        # closing: the reading threads have ended, whatever happens here, before the caller closes the video.
        with closing(
            frame_batches(self.video, indices, image_size, self.batch_len, self.group, self.on_damage)
        ) as batches:
            for batch in batches:
                began = time.perf_counter()
                coming = encode_frames(self.model, self.params, batch.pixels) if len(batch.positions) else ()
                self.timings["encode_s"] += time.perf_counter() - began
                if waiting:
                    yield self._fetched(places, *waiting)
                waiting = batch._replace(pixels=batch.pixels[:0]), coming
            if waiting:
                yield self._fetched(places, *waiting)

    def _fetched(
        self, places: np.ndarray, batch: FrameBatch, coming: Any
    ) -> tuple[np.ndarray, tuple[int, ...], np.ndarray]:
        began = time.perf_counter()
        tokens = np.asarray(coming)[: -(-len(batch.positions) // self.group)]
        self.timings["encode_s"] += time.perf_counter() - began
        self.timings["read_s"] += batch.read_s
        return places[batch.positions], batch.lost, tokens
