"""Rows kept of videos: 16,384 frames against a plain reading of the rule in numpy, in blocks, in bounded memory."""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.infer.askable import CONFIG, WORDS, askable, random_index, tokenizer
from vxlpro_jax.data.conversation import question_prompt
from vxlpro_jax.infer import kept_rows as room
from vxlpro_jax.infer.kept_rows import plan_prompts, tokens_at
from vxlpro_jax.models.presets import VIDEO_XL_PRO_3B
from vxlpro_jax.models.video_xl_pro import VideoXLProModel
from vxlpro_jax.types import VIDEO_MARK, RowBatch, RowPlan, Selection

TOKENS = CONFIG.tokens_per_group
BUDGET, LENGTH = 3000, 3072


class Asked(NamedTuple):
    videos: list[np.ndarray]
    times_s: list[np.ndarray]
    batch: RowBatch
    plans: RowPlan
    scores: np.ndarray


def ask(sizes, questions, budget=BUDGET, length=LENGTH) -> Asked:
    """Rows kept of videos with so many groups, a frame every second."""
    model = askable()
    indexes = [random_index(size, seed=number) for number, size in enumerate(sizes)]
    batch = model._request(indexes, questions, 4, None, 50, None).batch
    selection = Selection(np.zeros((len(questions), len(sizes)), np.int32), np.full(len(questions), budget, np.int32))
    videos = [index.tokens for index in indexes]
    plans = plan_prompts(model.model, model.params, videos, batch, selection, length)
    return Asked(videos, [index.group_times_s for index in indexes], batch, *plans)


@jax.jit
def embedded(params, plans, tokens):
    return askable().model.apply({"params": params}, plans, tokens, method=VideoXLProModel.embed_rows)


@cache
def hours() -> Asked:
    """16,384 frames in 4,096 groups, in two videos, one of them longer than 9,999 s; two questions."""
    return ask((3000, 1096), (WORDS, "When?"))


def numpy_params() -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), askable().params)


def dense(params, x):
    return x @ params["kernel"] + params["bias"]


def plain_scores(videos, batch, row) -> list[np.ndarray]:
    """SPEC 9.3 and 9.4 in float64: scores [G, P] of each video."""
    params = numpy_params()
    window, heads = params["selector"]["window_attention"], CONFIG.selector.num_heads
    table = params["llm"]["embed_tokens"]["embedding"]
    hidden = dense(params["selector"]["text_mlp"], table[batch.text_ids[row][batch.query_mask[row]]])
    query = np.asarray(jax.nn.gelu(jnp.asarray(hidden, jnp.float32), approximate=False), np.float64).mean(0)
    scores, group = [], 0
    for tokens in videos:
        raw = np.zeros(tokens.shape[:2])
        for number, visual in enumerate(tokens):
            mask = batch.stamp_mask[row, group]
            q = dense(window["q_proj"], table[batch.stamp_ids[row, group][mask]])
            k = dense(window["k_proj"], visual.astype(np.float64))
            mixed = []
            for q_head, k_head in zip(np.split(q, heads, -1), np.split(k, heads, -1), strict=True):
                weights = np.exp(k_head @ q_head.T / np.sqrt(q_head.shape[-1]))
                mixed.append(weights / weights.sum(-1, keepdims=True) @ q_head)
            raw[number] = dense(window["out_proj"], np.concatenate(mixed, -1)) @ query
            group += 1
        scores.append((raw - raw.min()) / (raw.max() - raw.min()))
    return scores


def plain_budget(scores, stamp_len, budget):
    """Best first, earlier first among equals; the first of a group pays for its stamp; stop at the first misfit."""
    keep = np.zeros(scores.shape, bool)
    for place in np.argsort(-scores.reshape(-1), kind="stable"):
        group, token = divmod(int(place), scores.shape[1])
        budget -= 1 + (0 if keep[group].any() else stamp_len[group])
        if budget < 0:
            break
        keep[group, token] = True
    return keep


def rotated(x, position):
    """SPEC 9.5."""
    angles = position * CONFIG.selector.rotation_base ** (-np.arange(0, len(x), 2) / len(x))
    turned = (x[0::2] + 1j * x[1::2]) * np.exp(1j * angles)
    return np.stack([turned.real, turned.imag], -1).reshape(-1)


def plain_rows(asked: Asked, row: int, question: str, scores, keep) -> np.ndarray:
    """What the LLM should read, walking the prompt, its videos, their groups and tokens."""
    table = numpy_params()["llm"]["embed_tokens"]["embedding"]
    encode = tokenizer().encode
    out, group, video = [], 0, 0
    for token in question_prompt(question, encode, len(asked.videos)).ids:
        if token != VIDEO_MARK:
            out.append(table[token])
            continue
        position = 0
        for tokens, time_s in zip(asked.videos[video], asked.times_s[video], strict=True):
            for word in encode(CONFIG.stamps.text.format(time_s)):
                if keep[group].any():
                    out.append(rotated(table[word], position))
                position += 1
            for place in range(TOKENS):
                if keep[group, place]:
                    out.append(rotated(tokens[place], position) + scores[group, place])
                position += 1
            group += 1
        video += 1
    return np.array(out)


def test_scores_of_16384_frames_are_those_of_the_rule():
    asked = hours()
    expected = np.concatenate(plain_scores(asked.videos, asked.batch, row=1))
    np.testing.assert_allclose(asked.scores[1, :4096], expected, atol=2e-5)
    assert (asked.scores[:, 4096:] == 0).all() and (asked.scores[0] != asked.scores[1]).any()


def test_what_is_kept_of_16384_frames_is_what_the_rule_keeps_in_reading_order():
    """Which tokens, whose stamps, in which order, at which times, and what the LLM reads of each."""
    asked = hours()
    plans, batch = asked.plans, asked.batch
    read = np.asarray(embedded(askable().params, plans, tokens_at(asked.videos, plans.visual)))
    for row, question in enumerate((WORDS, "When?")):
        scores = asked.scores[row, :4096]
        stamp_len = batch.stamp_mask[row, :4096].sum(-1)
        assert set(stamp_len) == {3, 4}  # from 10,000 s on, stamps are longer
        keep = plain_budget(scores, stamp_len, BUDGET)
        expected = plain_rows(asked, row, question, scores, keep)
        num_rows = len(expected)
        assert plans.valid[row].tolist() == [place < num_rows for place in range(LENGTH)]
        assert plans.visual[row][plans.visual[row] >= 0].tolist() == np.flatnonzero(keep).tolist()
        used = keep.sum() + stamp_len[keep.any(-1)].sum()
        assert BUDGET - 5 <= used <= BUDGET and 100 < keep.any(-1).sum() < 4000
        np.testing.assert_allclose(read[row, :num_rows], expected, atol=0.02)  # float32 angles
        assert (read[row, num_rows:] == 0).all()


def test_selection_is_the_same_to_the_bit_each_time_and_whatever_the_blocks(monkeypatch):
    first = hours()
    again = ask((3000, 1096), (WORDS, "When?"))
    monkeypatch.setattr(room, "GROUPS_PER_BLOCK", 100)
    other = ask((3000, 1096), (WORDS, "When?"))
    for asked, tolerance in ((again, 0), (other, 1e-5)):
        np.testing.assert_allclose(asked.scores, first.scores, atol=tolerance)
        for name in ("ids", "visual", "place", "valid"):
            np.testing.assert_array_equal(getattr(asked.plans, name), getattr(first.plans, name))


def test_half_precision_does_not_favour_the_beginning():
    """Scores are float32 whatever the model works in: else most tokens tie, and ties go to the earliest."""
    model = askable()
    half = model.model.clone(dtype=jnp.bfloat16)
    asked = hours()
    selection = Selection(np.zeros((2, 2), np.int32), np.full(2, BUDGET, np.int32))
    _, scores = plan_prompts(half, model.params, asked.videos, asked.batch, selection, LENGTH)
    assert scores.dtype == np.float32 and len(np.unique(scores[0, :4096])) > 0.9 * 4096 * TOKENS


class Watched:
    """Tokens that tell how much of them was read at once."""

    def __init__(self, tokens: np.ndarray):
        self.tokens, self.shape, self.dtype = tokens, tokens.shape, tokens.dtype
        self.most = 0

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, place):
        part = self.tokens[place]
        self.most = max(self.most, part.nbytes)
        return part


def test_no_more_than_a_block_of_the_index_is_read_at_once():
    model, asked = askable(), hours()
    watched = [Watched(video) for video in asked.videos]
    selection = Selection(np.zeros((2, 2), np.int32), np.full(2, BUDGET, np.int32))
    plans, _ = plan_prompts(model.model, model.params, watched, asked.batch, selection, LENGTH)
    np.testing.assert_array_equal(plans.visual, asked.plans.visual)
    row = CONFIG.llm.dim * 4
    assert 0 < max(video.most for video in watched) <= room.GROUPS_PER_BLOCK * TOKENS * row
    kept = tokens_at(watched, plans.visual[:1, :500])
    assert max(video.most for video in watched) <= max(room.GROUPS_PER_BLOCK * TOKENS, 500) * row
    flat = np.concatenate(asked.videos).reshape(-1, CONFIG.llm.dim)
    expected = np.where(plans.visual[0, :500, None] >= 0, flat[np.maximum(plans.visual[0, :500], 0)], 0)
    np.testing.assert_array_equal(kept[0], expected)


def abstract_batch(num_groups: int, tokens: int) -> RowBatch:
    def of(dtype, *shape):
        return jax.ShapeDtypeStruct((1, *shape), dtype)

    words = VIDEO_XL_PRO_3B.stamps.num_tokens
    return RowBatch(
        text_ids=of(jnp.int32, 64),
        query_mask=of(bool, 64),
        stamp_ids=of(jnp.int32, num_groups, words),
        stamp_mask=of(bool, num_groups, words),
        video_of_group=of(jnp.int32, num_groups),
        row_source=of(jnp.int32, 64 + num_groups * (words + tokens)),
        labels=of(jnp.int32, 64),
    )


def temporaries(function, *arguments) -> int:
    return function.lower(*arguments).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("num_groups", [4096, 12288])
def test_choosing_takes_some_numbers_per_token_at_16384_and_49152_frames(num_groups):
    """At the released tokens per group: no square of groups, nothing of the model's width."""
    tokens, model = VIDEO_XL_PRO_3B.tokens_per_group, askable().model
    raw = jax.ShapeDtypeStruct((1, num_groups, tokens), jnp.float32)
    selection = Selection(jax.ShapeDtypeStruct((1, 1), jnp.int32), jax.ShapeDtypeStruct((1,), jnp.int32))
    used = temporaries(room._plan, model, raw, abstract_batch(num_groups, tokens), selection, 32768)
    assert used < 100 * num_groups * tokens  # bytes; a float32 square of 12,288 groups alone has twice as many


def test_scoring_takes_memory_for_a_block():
    model, params = askable().model, askable().params
    dim, words = CONFIG.llm.dim, CONFIG.stamps.num_tokens
    block = jax.ShapeDtypeStruct((1, room.GROUPS_PER_BLOCK, TOKENS, dim), jnp.float32)
    stamps = [jax.ShapeDtypeStruct((1, room.GROUPS_PER_BLOCK, words), dtype) for dtype in (jnp.int32, bool)]
    query = jax.ShapeDtypeStruct((8, dim), jnp.float32)
    used = temporaries(room._score_block, model, params, block, *stamps, query)
    assert used < 20 * room.GROUPS_PER_BLOCK * TOKENS * dim * 4


def test_what_fits_is_kept_whole():
    asked = ask((5, 2), (WORDS,), budget=10**6, length=256)
    assert (asked.plans.visual[0] >= 0).sum() == 7 * TOKENS
    assert asked.plans.valid[0].sum() == (asked.batch.row_source[0] >= 0).sum()
