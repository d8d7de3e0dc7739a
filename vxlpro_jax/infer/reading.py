"""One row read piece by piece into a cache that is kept, and read on from where the next row departs from it.

Memory is the cache and one piece, however long the row: the visual tokens stay on the host, and each piece fetches its
own. What a row has in common with the row before is not read again: a conversation goes on, several questions share
what they keep of a video.

Source: SPEC 9.5 to 9.8.
"""

from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from vxlpro_jax.data.batching import bucket
from vxlpro_jax.infer.generate import decode
from vxlpro_jax.infer.kept_rows import padded, tokens_at
from vxlpro_jax.infer.kv_cache import allocate, grow, rewind
from vxlpro_jax.infer.token_sampler import Sampling
from vxlpro_jax.models.qwen2 import KVCache
from vxlpro_jax.models.video_xl_pro import VideoXLProModel
from vxlpro_jax.types import RowPlan

PIECE_LEN = 2048  # rows read at once: enough to keep matrix units busy, and their activations stay below 200 MiB at 3B
SHORTEST_PIECE = 64


def plan_of(plans: RowPlan, row: int) -> RowPlan:
    """One row of a batch of plans, on the host and without its padding: arrays [L]."""
    length = int(np.asarray(plans.valid[row]).sum())
    return RowPlan(*(np.asarray(field[row])[:length] for field in plans))


def then_text(plan: RowPlan, ids: Sequence[int]) -> RowPlan:
    """The plan of one row, followed by tokens of text."""
    count = len(ids)
    text = RowPlan(np.array(ids, np.int32), np.full(count, -1), np.zeros(count), np.zeros(count), np.ones(count, bool))
    return RowPlan(*(np.concatenate([old, new.astype(old.dtype)]) for old, new in zip(plan, text, strict=True)))


@partial(jax.jit, static_argnames=("model",), donate_argnames=("cache",))
def _read_piece(model, params, plan, visual, last, cache):
    return model.apply({"params": params}, plan, visual, last, cache, method=VideoXLProModel.read)


class Reader:
    """A cache for one row, and what it holds. videos: the tokens [G, P, D] that plans speak of, on the host."""

    def __init__(self, model: VideoXLProModel, params: Any, videos: Sequence[np.ndarray]):
        self.model = model
        self.params = params
        self.videos = videos
        self.num_read = 0  # rows that went through the model, for tests and timings
        self._plan: RowPlan | None = None
        self._cache: KVCache | None = None

    def read(self, plan: RowPlan, room: int) -> Float[Array, "B V"]:
        """Logits of the token that follows the row (arrays [L], all valid); `room` more will be generated.

        Rows at the start that the cache holds already are not read again.
        """
        length = len(plan.valid)
        start = min(self._num_common(plan), length - 1)  # the last row is always read: its logits are asked for
        piece = min(PIECE_LEN, bucket(length - start, SHORTEST_PIECE))
        num_pieces = -(-(length - start) // piece)
        cache = self._with_room(max(start + num_pieces * piece, length + room), start)
        self._plan, self._cache = plan, None
        for first in range(start, length, piece):
            part = RowPlan(*(padded(field[first : first + piece], piece, axis=0)[None] for field in plan))
            visual = tokens_at(self.videos, part.visual)
            last = np.int32(min(piece, length - first) - 1)
            logits, cache = _read_piece(self.model, self.params, part, visual, last, cache)
        self.num_read += length - start
        self._cache = rewind(cache, length)
        return logits

    def generate(
        self,
        logits: Float[Array, "B V"],
        max_new_tokens: int,
        stop_ids: Sequence[int],
        sampling: Sampling,
        seed: int,
        stride: int,
    ) -> Generator[np.ndarray, None, None]:
        """infer/generate.py decode after what was read; the cache then holds the answer too."""
        assert self._plan is not None and self._cache is not None, "nothing was read"
        cache, self._cache = self._cache, None
        steps = decode(self.model, self.params, logits, cache, max_new_tokens, stop_ids, sampling, seed, stride)
        told: list[int] = []
        while True:
            try:
                ids = next(steps)
            except StopIteration as end:
                self._plan, self._cache = then_text(self._plan, told), end.value
                return
            told.append(int(ids[0]))
            yield ids

    def _num_common(self, plan: RowPlan) -> int:
        """Rows at the start of the plan that the cache holds."""
        if self._plan is None or self._cache is None:
            return 0
        held = min(int(self._cache.next_slot), len(plan.valid), len(self._plan.valid))
        same = np.ones(held, bool)
        for name, old, new in zip(RowPlan._fields, self._plan, plan, strict=True):
            if name != "score" or self.model.config.selector.score_use != "none":
                same &= old[:held] == new[:held]
        return held if same.all() else int(same.argmin())

    def _with_room(self, length: int, num_held: int) -> KVCache:
        """A cache of at least `length` slots that holds the first num_held rows."""
        if length > PIECE_LEN:
            length = -(-length // PIECE_LEN) * PIECE_LEN
        else:
            length = bucket(length, 2 * SHORTEST_PIECE)
        if self._cache is None or num_held == 0 and self._cache.valid.shape[1] < length:
            self._cache = None  # freed before its successor is made
            return allocate(self.model.config.llm, 1, length, self.model.dtype)
        return rewind(grow(self._cache, length), num_held)
