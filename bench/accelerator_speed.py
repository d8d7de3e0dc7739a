"""What bench/accelerator.py measures of speed and memory, section by section, with the programs that users run.

Source: ours; the limits beside the measured seconds are those of vxlpro_jax/planning. Frames are noise in memory at the
tower's own size, so that no video is decoded and no frame resized; answers of random weights are noise too.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.random_model import measured_config, random_model, random_params
from vxlpro_jax.infer.answer import Answer, VideoXLPro
from vxlpro_jax.infer.generate import encode_frames
from vxlpro_jax.infer.video_index import VideoIndex
from vxlpro_jax.models.presets import with_switches
from vxlpro_jax.parallel.devices import device_of_kind
from vxlpro_jax.planning.counts import decode_bytes, encode_flops, rows_of_video
from vxlpro_jax.planning.memory import GIB
from vxlpro_jax.planning.plan import PROMPT_ROWS, Work, seconds_at_limit

BATCH_LEN = 64  # frames that model.index encodes at once, unless told otherwise
ROUNDS = 8  # of the encoder alone, after one that compiles
TURN_ROWS = 32  # of a later turn's question, with its markers
SHORT_LEN = 64  # frames of the video that short answers are about
QUESTIONS = ("What colour is the shape on the card?", "Which digit is on the card?", "What shape is on the card?")


@dataclass(frozen=True)
class Size:
    """preset: whose sizes the model has. num_frames: of the long video; shared_frames: of the one that two questions
    share whole. max_new_tokens: of an answer; long_answer: of the answers that time decoding."""

    preset: str
    num_frames: int
    shared_frames: int
    max_new_tokens: int = 128
    long_answer: int = 256


# The tiny one's videos are so long that prompts are read in pieces, as at full size.
SIZES = {
    "3b": Size("video_xl_pro_3b", num_frames=8192, shared_frames=768),
    "tiny": Size("tiny", num_frames=1280, shared_frames=1280, max_new_tokens=16, long_answer=32),
}


class Subject:
    """The model, the video and its index, each made when a section first needs it."""

    def __init__(self, size: Size, seed: int, device: Any):
        self.size = size
        self.seed = seed
        self.device = device
        self.config = measured_config(size.preset)
        self.known = device_of_kind(device.device_kind)
        self.name = self.known.name if self.known else "-".join(device.device_kind.lower().split())

    @cached_property
    def params(self) -> Any:
        return jax.block_until_ready(random_params(self.config, self.seed, jnp.bfloat16))

    @cached_property
    def model(self) -> VideoXLPro:
        return random_model(self.config, self.params, jnp.bfloat16)

    @cached_property
    def frames(self) -> np.ndarray:
        side = self.config.vision.image_size
        shape = (self.size.num_frames, side, side, 3)
        return np.random.default_rng(self.seed).integers(0, 256, shape, dtype=np.uint8)

    @cached_property
    def long_video(self) -> tuple[VideoIndex, float]:
        """(the index, the seconds that making it took): frames from memory to tokens in memory, the encoder compiled
        before."""
        self.model.index(self.frames[:BATCH_LEN], fps=1.0, frames_per_batch=BATCH_LEN)
        return timed(lambda: self.model.index(self.frames, fps=1.0, frames_per_batch=BATCH_LEN))

    def reading(self, num_rows: int, max_new_tokens: int, **switches: Any) -> VideoXLPro:
        """The same model for prompts of so many rows of video, be they more than it was trained on."""
        needed = num_rows + PROMPT_ROWS + max_new_tokens
        context_len = needed if needed > self.config.max_context_len else None
        named = {f"selector.{name}": value for name, value in switches.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it was trained on less, or rather on nothing
            return random_model(with_switches(self.config, named), self.params, jnp.bfloat16, context_len)

    def limit_s(self, answer: Answer) -> float | None:
        """Seconds of indexing and such an answer at the device's limit by its data sheet; None where it is not
        known."""
        if self.known is None:
            return None
        work = Work(self.size.preset, self.known, self.size.num_frames)
        seconds = seconds_at_limit(work, answer.num_tokens)
        return (
            seconds["encode"] + seconds["choose"] + seconds["prefill"] + answer.timings["num_steps"] * seconds["token"]
        )

    def memory(self) -> dict[str, Any]:
        """Bytes that arrays and programs have held at most since the process began, and what they may have; None where
        the device does not tell."""
        told = self.device.memory_stats() or {}
        peak, limit = told.get("peak_bytes_in_use"), told.get("bytes_limit")
        return {"peak_gib": None if peak is None else round(peak / GIB, 3), "limit_bytes": limit}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """(what it gave, seconds it took)."""
    began = time.perf_counter()
    given = work()
    return given, time.perf_counter() - began


def measure_encode(subject: Subject) -> dict[str, Any]:
    """Frames per second of the program alone, its pixels on the device; of bringing them there; and of model.index."""
    config, side = subject.config, subject.config.vision.image_size
    pixels = np.random.default_rng(subject.seed).uniform(-1, 1, (BATCH_LEN, side, side, 3)).astype(np.float32)
    there = jax.block_until_ready(jax.device_put(pixels, subject.device))
    model, params = subject.model.model, subject.params
    _, first_s = timed(lambda: encode_frames(model, params, there).block_until_ready())
    _, rounds_s = timed(lambda: jax.block_until_ready([encode_frames(model, params, there) for _ in range(ROUNDS)]))
    moved = (jax.device_put(pixels, subject.device) for _ in range(ROUNDS))
    _, moving_s = timed(lambda: [array.block_until_ready() for array in moved])
    index, index_s = subject.long_video
    flops = encode_flops(config, BATCH_LEN)
    rates = {"program": ROUNDS * BATCH_LEN / rounds_s, "pipeline": subject.size.num_frames / index_s}
    return {
        "frames_per_batch": BATCH_LEN,
        "first_s": first_s,
        "frames_per_s": rates,
        "tflop_per_s": {name: rate * flops / BATCH_LEN / 1e12 for name, rate in rates.items()},
        "share_of_peak": {
            name: None if subject.known is None else rate * flops / BATCH_LEN / subject.known.peak_flops
            for name, rate in rates.items()
        },
        "to_device_gb_per_s": ROUNDS * pixels.nbytes / moving_s / 1e9,
        "index_s": index_s,
        "index_timings": dict(index.timings),
        "index_bytes": index.tokens.nbytes,
    }


def measure_selected(subject: Subject) -> dict[str, Any]:
    """The long video indexed, and an answer from what the selector keeps."""
    return _answered(subject, subject.model)


def measure_whole(subject: Subject) -> dict[str, Any]:
    """The long video indexed, and an answer for which all of it is read."""
    rows = rows_of_video(subject.config, subject.size.num_frames)
    return _answered(subject, subject.reading(rows, subject.size.max_new_tokens))


def _answered(subject: Subject, model: VideoXLPro) -> dict[str, Any]:
    """The first answer waits for compilation. The same question again reads everything again."""
    index, index_s = subject.long_video
    _, first_s = timed(lambda: _ask(subject, model, index, QUESTIONS[0]))
    answer, answer_s = timed(lambda: _ask(subject, model, index, QUESTIONS[0]))
    return {
        "index_s": index_s,
        "answer_s": answer_s,
        "total_s": index_s + answer_s,
        "total_with_compilation_s": index_s + first_s,
        "limit_s": subject.limit_s(answer),
        **_told(answer),
    }


def _ask(subject: Subject, model: VideoXLPro, index: VideoIndex, question: str) -> Answer:
    return model.ask(index, question, max_new_tokens=subject.size.max_new_tokens)


def _told(answer: Answer) -> dict[str, Any]:
    return {
        "rows": answer.num_tokens,
        "num_kept": answer.num_kept,
        "num_visual": answer.num_visual,
        "timings": dict(answer.timings),
    }


def measure_second(subject: Subject) -> dict[str, Any]:
    """What a second question costs: with the index, in a conversation, and beside the first where both keep the same.

    Each is measured when its programs are compiled.
    """
    (index, index_s), size = subject.long_video, subject.size
    for question in QUESTIONS[:2]:
        _ask(subject, subject.model, index, question)
    _, first_s = timed(lambda: _ask(subject, subject.model, index, QUESTIONS[0]))
    second, second_s = timed(lambda: _ask(subject, subject.model, index, QUESTIONS[1]))
    chat = subject.model.chat(index, reserve=(len(QUESTIONS) - 1) * (TURN_ROWS + size.max_new_tokens))
    turns = [timed(lambda q=q: chat.ask(q, max_new_tokens=size.max_new_tokens)) for q in QUESTIONS]
    return {
        "index_reused": {
            "first_s": index_s + first_s,
            "second_s": second_s,
            "share": second_s / (index_s + first_s),
            **_told(second),
        },
        # The first turn reads the video, the second compiles: the third is what a question costs from then on.
        "chat": {"turns_s": [seconds for _, seconds in turns], "rows": [answer.num_tokens for answer, _ in turns]},
        "prefix_shared": _shared(subject, index),
    }


def _shared(subject: Subject, index: VideoIndex) -> dict[str, Any]:
    """Two questions about a video that is read whole and whose tokens do not depend on the question."""
    size = subject.size
    rows = rows_of_video(subject.config, size.shared_frames)
    model = subject.reading(rows, size.max_new_tokens, score_use="none")
    video = _beginning(index, size.shared_frames, subject.config.dts.frames_per_group)

    def asked(questions: Sequence[str]) -> float:
        return timed(lambda: model.ask(video, questions, max_new_tokens=size.max_new_tokens))[1]

    for count in (1, 2):
        asked(QUESTIONS[:count])
    one_s, both_s = (asked(QUESTIONS[:count]) for count in (1, 2))
    return {"frames": size.shared_frames, "rows_of_video": rows, "one_s": one_s, "second_s": both_s - one_s}


def _beginning(index: VideoIndex, num_frames: int, frames_per_group: int) -> VideoIndex:
    """The index of the video's first frames; groups know nothing of each other."""
    groups = num_frames // frames_per_group
    return VideoIndex(
        tokens=index.tokens[:groups],
        group_times_s=index.group_times_s[:groups],
        frame_times_s=index.frame_times_s[:num_frames],
        frame_indices=index.frame_indices[:num_frames],
        end_s=float(num_frames),
        kind=index.kind,
        fingerprint=index.fingerprint,
        sampling=index.sampling,
        source=index.source,
    )


def measure_decode(subject: Subject) -> dict[str, Any]:
    """Tokens per second of one answer, after a short prompt and after as many rows as the context holds."""
    index, _ = subject.long_video
    short = _beginning(index, SHORT_LEN, subject.config.dts.frames_per_group)
    found = {}
    for name, video in (("short", short), ("context", index)):
        for _ in range(2):  # the first one compiles
            answer = subject.model.ask(video, QUESTIONS[0], max_new_tokens=subject.size.long_answer)
        rate = 1 / answer.timings["per_token_s"]
        limit = None
        if subject.known is not None:
            limit = subject.known.bytes_per_s / decode_bytes(subject.config, answer.num_tokens)
        found[name] = {"tokens_per_s": rate, "limit": limit, "share": limit and rate / limit, **_told(answer)}
    return found
