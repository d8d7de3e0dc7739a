"""Rows read piece by piece: equal to the prefill of the whole, and what is held is not read again."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.infer.askable import CONFIG, WORDS, askable, random_index
from vxlpro_jax.infer import reading
from vxlpro_jax.infer.answer import VideoXLPro
from vxlpro_jax.infer.generate import prefill
from vxlpro_jax.infer.kept_rows import tokens_at
from vxlpro_jax.infer.kv_cache import allocate
from vxlpro_jax.infer.reading import Reader, plan_of, then_text
from vxlpro_jax.infer.replies import plan_request
from vxlpro_jax.infer.token_sampler import Sampling
from vxlpro_jax.types import RowPlan

QUESTIONS = [WORDS, "When?", "Which card appeared first, the red circle or the blue star, and where did it go then?"]


@pytest.fixture
def short_pieces(monkeypatch):
    """Prompts of a hundred rows are long, and so is a cache of sixty slots."""
    monkeypatch.setattr(reading, "PIECE_LEN", 32)
    monkeypatch.setattr(reading, "SHORTEST_PIECE", 8)


def planned(model: VideoXLPro, questions, num_groups: int = 12, **options):
    settings = {"keep_rate": None, "budget": None} | options
    request = model._request([random_index(num_groups)], questions, 5, *settings.values(), None)
    return request, plan_request(request, model.params)[0]


@pytest.mark.parametrize("options", [{}, {"budget": 40}, {"keep_rate": 0.7}])
def test_pieces_give_the_logits_of_the_whole(short_pieces, options):
    model = askable()
    request, plans = planned(model, QUESTIONS, **options)
    whole = prefill(request.model, model.params, plans, tokens_at(request.videos, plans.visual), 256)
    for row in range(3):
        reader = Reader(request.model, model.params, request.videos)
        plan = plan_of(plans, row)
        logits = reader.read(plan, 5)
        assert reader.num_read == len(plan.valid) == int(plans.valid[row].sum()) > 32
        np.testing.assert_allclose(logits[0], whole.logits[row], atol=2e-4)
    assert np.abs(np.asarray(whole.logits[0] - whole.logits[1])).max() > 0.1


def test_questions_share_what_they_keep(short_pieces):
    """Where scores do not enter the tokens, a second question about the same kept video reads its own words alone, and
    gets the logits that it would get by itself; where they do, it reads all that differs."""
    for score_use in ("none", "add"):
        config = replace(CONFIG, selector=replace(CONFIG.selector, score_use=score_use))
        model = askable(config)
        request, plans = planned(model, QUESTIONS)
        shared, last = Reader(request.model, model.params, request.videos), 0
        for row in range(3):
            plan = plan_of(plans, row)
            logits = shared.read(plan, 5)
            alone = Reader(request.model, model.params, request.videos)
            np.testing.assert_allclose(logits, alone.read(plan, 5), atol=2e-4)
            list(shared.generate(logits, 5, (), Sampling(), 0, 4))
            again, last = shared.num_read - last, shared.num_read
            num_video = 12 * (CONFIG.tokens_per_group + CONFIG.stamps.num_tokens)
            if row == 0:
                assert again == len(plan.valid)
            elif score_use == "none":
                assert again < len(plan.valid) - num_video
            else:
                assert num_video < again < len(plan.valid)  # the words before the video are the same


def test_an_answer_is_held_and_a_broken_reading_is_begun_again(short_pieces):
    model = askable()
    request, plans = planned(model, QUESTIONS[:1])
    reader = Reader(request.model, model.params, request.videos)
    plan = plan_of(plans, 0)
    logits = reader.read(plan, 40)
    told = [int(ids[0]) for ids in reader.generate(logits, 6, (), Sampling(), 0, 4)]
    longer = then_text(plan, [*told, 3, 4])
    before = reader.num_read
    on = reader.read(longer, 5)
    assert reader.num_read - before == 3  # the last token told, and the two new ones
    fresh = Reader(request.model, model.params, request.videos)
    np.testing.assert_allclose(on, fresh.read(longer, 5), atol=2e-4)
    steps = reader.generate(on, 6, (), Sampling(), 0, 1)
    next(steps)
    steps.close()  # the cache went with it
    before = reader.num_read
    np.testing.assert_allclose(reader.read(longer, 5), on, atol=2e-4)
    assert reader.num_read - before == len(longer.valid)


def test_memory_is_the_cache_and_one_piece():
    """Compiled for half a million slots: the cache is written where it lies, and a piece needs a fraction of it."""
    model, length, slots = askable(), 64, 2**19
    cache = jax.eval_shape(lambda: allocate(CONFIG.llm, 1, slots, jnp.float32))
    numbers = jax.ShapeDtypeStruct((1, length), jnp.int32)
    plan = RowPlan(numbers, numbers, numbers, numbers.update(dtype=jnp.float32), numbers.update(dtype=bool))
    visual = jax.ShapeDtypeStruct((1, length, CONFIG.llm.dim), jnp.float32)
    last = jax.ShapeDtypeStruct((), jnp.int32)
    memory = reading._read_piece.lower(model.model, model.params, plan, visual, last, cache).compile().memory_analysis()
    held = cache.keys.size * 4 * 2
    assert memory.alias_size_in_bytes >= held
    assert memory.temp_size_in_bytes < held / 4
