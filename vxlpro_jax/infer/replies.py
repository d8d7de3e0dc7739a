"""Prompts to texts: short ones in one batch, long ones in turn in one cache.

Source: SPEC 9.6 to 9.8.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vxlpro_jax.data.batching import bucket
from vxlpro_jax.infer.generate import DECODE_BLOCK, STREAM_STRIDE, decode, prefill
from vxlpro_jax.infer.kept_rows import plan_prompts, tokens_at
from vxlpro_jax.infer.reading import PIECE_LEN, Reader, plan_of
from vxlpro_jax.infer.spelling import Speller, TextCodec
from vxlpro_jax.infer.token_sampler import Sampling
from vxlpro_jax.infer.video_index import VideoIndex
from vxlpro_jax.models.video_xl_pro import VideoXLProModel
from vxlpro_jax.types import RowPlan, Selection


class Request(NamedTuple):
    """A batch of questions about the same videos, ready to be read: at most `length` rows each."""

    indexes: list[VideoIndex]
    batch: Any
    selection: Selection
    length: int
    model: VideoXLProModel

    @property
    def videos(self) -> list[np.ndarray]:
        """The tokens of each video, on the host."""
        return [index.tokens for index in self.indexes]


class Generation(NamedTuple):
    """How answers are generated. on_text(row, new text): called while they grow."""

    stop_ids: Sequence[int]
    max_new_tokens: int
    sampling: Sampling
    seed: int
    on_text: Callable[[int, str], None] | None

    def arguments(self) -> tuple[int, Sequence[int], Sampling, int, int]:
        """What decode takes after the cache. Somebody who watches sees text every few tokens."""
        stride = DECODE_BLOCK if self.on_text is None else STREAM_STRIDE
        return self.max_new_tokens, self.stop_ids, self.sampling, self.seed, stride


class Replies(NamedTuple):
    """texts of the questions; scores [B, G, P]; num_rows int [B]; kept: for each question the numbers of the visual
    tokens that were kept, counted over all videos; timings as in Answer."""

    texts: list[str]
    scores: np.ndarray
    num_rows: np.ndarray
    kept: list[np.ndarray]
    timings: Mapping[str, float]


def reply(request: Request, params: Any, tokenizer: TextCodec, generation: Generation) -> Replies:
    """The same texts either way; in turn, memory does not grow with the questions, and what a prompt has in common with
    the one before it is not read again."""
    way = _in_turn if request.length > PIECE_LEN else _together
    return way(request, params, Speller(tokenizer, len(request.batch.text_ids), generation.on_text), generation)


def _together(request: Request, params: Any, speller: Speller, generation: Generation) -> Replies:
    clock = Clock()
    cache_len = bucket(request.length + generation.max_new_tokens, 128)
    plans, scores = plan_request(request, params)
    prefilled = prefill(request.model, params, plans, tokens_at(request.videos, plans.visual), cache_len)
    prefilled.logits.block_until_ready()
    clock.has_read()
    steps = decode(request.model, params, prefilled.logits, prefilled.cache, *generation.arguments())
    clock.has_decoded(_spell(speller, steps))
    kept = [visual[visual >= 0] for visual in plans.visual]
    return Replies(speller.texts(), scores, plans.valid.sum(-1), kept, clock.timings())


def _in_turn(request: Request, params: Any, speller: Speller, generation: Generation) -> Replies:
    clock = Clock()
    plans, scores = plan_request(request, params)
    reader = reader_of(request, params)
    num_rows, kept = [], []
    for row in range(len(speller.tokens)):
        plan = plan_of(plans, row)
        logits = reader.read(plan, generation.max_new_tokens).block_until_ready()
        clock.has_read()
        clock.has_decoded(_spell(speller, reader.generate(logits, *generation.arguments()), row))
        num_rows.append(len(plan.valid))
        kept.append(plan.visual[plan.visual >= 0])
    return Replies(speller.texts(), scores, np.array(num_rows), kept, clock.timings())


def plan_request(request: Request, params: Any) -> tuple[RowPlan, np.ndarray]:
    """The plans of the request's prompts, and the scores behind them."""
    return plan_prompts(request.model, params, request.videos, request.batch, request.selection, request.length)


def reader_of(request: Request, params: Any) -> Reader:
    """A reader of the request's videos."""
    return Reader(request.model, params, request.videos)


def _spell(speller: Speller, steps: Iterable[np.ndarray], first_row: int = 0) -> int:
    """How many steps there were."""
    count = 0
    for ids in steps:
        count += 1
        speller.add(ids, first_row)
    return count


class Clock:
    """Where the seconds go: to reading, or to decoding."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._read_s = self._decode_s = 0.0
        self._steps = 0

    def _lap(self) -> float:
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return seconds

    def has_read(self) -> None:
        self._read_s += self._lap()

    def has_decoded(self, steps: int) -> None:
        self._decode_s += self._lap()
        self._steps += steps

    def timings(self) -> dict[str, float]:
        """Answer.timings."""
        per_token_s = self._decode_s / max(1, self._steps)
        return {
            "prefill_s": self._read_s,
            "decode_s": self._decode_s,
            "num_steps": float(self._steps),
            "per_token_s": per_token_s,
        }
