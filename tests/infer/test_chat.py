"""A conversation equals asking with all of it; what does not fit is refused and changes nothing."""

from dataclasses import replace

import numpy as np
import pytest

from tests.infer.askable import CONFIG, WORDS, random_index, tokenizer
from tests.small_model import small_params
from vxlpro_jax.data.batching import build_rows
from vxlpro_jax.data.conversation import Prompt, follow_up_ids, question_prompt, stamp_ids
from vxlpro_jax.infer.answer import VideoXLPro
from vxlpro_jax.infer.generate import decode, prefill
from vxlpro_jax.infer.kept_rows import plan_prompts, tokens_at
from vxlpro_jax.infer.token_sampler import Sampling
from vxlpro_jax.types import IGNORE_LABEL, Selection

QUESTIONS = [WORDS, "When?", "And before?"]
ROOMY = replace(CONFIG, max_context_len=400)


class Spelled:
    """Texts are the ids themselves, so that the tests see what was generated."""

    def encode(self, text):
        return tokenizer().encode(text)

    def decode(self, ids, skip_special_tokens=True):
        return " ".join(map(str, ids))


def model() -> VideoXLPro:
    return VideoXLPro(ROOMY, small_params(ROOMY), Spelled())


def asked_with_everything(answerer: VideoXLPro, index, turns, question, budget) -> str:
    """One prompt that spells out the turns, read at once by the batch's own way."""
    encode = tokenizer().encode
    first = question_prompt(turns[0][0] if turns else question, encode)
    ids, asked = first.ids.tolist(), first.question.tolist()
    asked_after = [*(turn[0] for turn in turns), question][1:]
    for (_, answer), following in zip(turns, asked_after, strict=True):
        ids += [*map(int, answer.split()), *follow_up_ids(following, encode)]
    asked += [False] * (len(ids) - len(asked))
    prompt = Prompt(np.array(ids, np.int32), np.full(len(ids), IGNORE_LABEL, np.int32), np.array(asked))
    stamps = [[stamp_ids(index.group_times_s, ROOMY.stamps, encode)]]
    batch = build_rows([prompt], stamps, ROOMY.tokens_per_group, "question")
    selection = Selection(np.full((1, 1), 10**6, np.int32), np.full(1, budget, np.int32))
    length = batch.row_source.shape[1]
    plan, _ = plan_prompts(answerer.model, answerer.params, [index.tokens], batch, selection, length)
    tokens = tokens_at([index.tokens], plan.visual)
    prefilled = prefill(answerer.model, answerer.params, plan, tokens, length + 5)
    steps = decode(answerer.model, answerer.params, *prefilled, 5, answerer.token_ids, Sampling(), 0)
    return " ".join(str(int(ids[0])) for ids in steps)


@pytest.mark.parametrize("budget", [60, None])
def test_a_conversation_equals_asking_with_all_of_it(budget):
    answerer, index = model(), random_index(12)
    chat = answerer.chat(index, budget=budget)
    turns: list[tuple[str, str]] = []
    for question in QUESTIONS:
        answer = chat.ask(question, max_new_tokens=5)
        assert answer.text == asked_with_everything(answerer, index, turns, question, budget or 10**6)
        alone = answerer.ask(index, question, max_new_tokens=5, budget=budget)
        assert [span[:2] for span in answer.evidence] == [span[:2] for span in alone.evidence]
        assert (answer.text == alone.text) == (not turns)  # later answers know more than their question
        assert answer.num_kept == answerer.ask(index, QUESTIONS[0], max_new_tokens=1, budget=budget).num_kept
        turns.append((question, answer.text))
    assert chat.turns == turns and len({answer for _, answer in turns}) > 1


def test_only_what_is_new_is_read():
    chat = model().chat(random_index(12))
    read, rows = [], []
    for question in QUESTIONS:
        answer = chat.ask(question, max_new_tokens=5)
        read.append(chat._reader.num_read)
        rows.append(answer.num_tokens)
        assert answer.timings.keys() == {"prefill_s", "decode_s", "num_steps", "per_token_s"}
    assert read[0] == rows[0] > 80
    for before, after, (question, told) in zip(rows, rows[1:], [(q, 5) for q in QUESTIONS[1:]], strict=False):
        assert after - before == told + len(follow_up_ids(question, tokenizer().encode))
    new = [after - before for before, after in zip(read, read[1:], strict=False)]
    assert all(
        count <= 1 + len(follow_up_ids(q, tokenizer().encode)) for q, count in zip(QUESTIONS[1:], new, strict=True)
    )


def test_text_is_streamed_and_seeds_decide():
    pieces: list[str] = []
    one, other = model().chat(random_index(6)), model().chat(random_index(6))
    options = {"max_new_tokens": 5, "temperature": 5.0}
    answer = one.ask(WORDS, seed=1, on_text=pieces.append, **options)
    assert "".join(pieces) == answer.text and len(pieces) > 1
    assert other.ask(WORDS, seed=2, **options).text != answer.text


def test_a_full_conversation_says_so_and_stands():
    chat = model().chat(random_index(12), reserve=0)
    first = chat.ask(WORDS, max_new_tokens=5)
    with pytest.raises(ValueError, match="context holds 400; start a new chat"):
        chat.ask("is " * 120, max_new_tokens=200)
    assert chat.turns == [(WORDS, first.text)]
    following = model().chat(random_index(12), reserve=0)
    following.ask(WORDS, max_new_tokens=5)
    assert chat.ask("When?", max_new_tokens=5).text == following.ask("When?", max_new_tokens=5).text


def test_what_is_reserved_is_not_filled_with_video():
    index = random_index(80)
    for reserve, room in ((0, 400), (100, 300), (None, 350)):
        answer = model().chat(index, reserve=reserve).ask(WORDS, max_new_tokens=5)
        assert room - 5 - 4 <= answer.num_tokens <= room - 5


@pytest.mark.parametrize("options", [{"reserve": -1}, {"reserve": 400}, {"budget": 0}, {"keep_rate": 2.0}])
def test_wrong_chats(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        model().chat(random_index(3), **options)


def test_wrong_questions():
    chat = model().chat(random_index(3))
    for options, message in (({"question": " "}, "empty"), ({"max_new_tokens": 0}, "max_new_tokens")):
        with pytest.raises(ValueError, match=message):
            chat.ask(**{"question": WORDS} | options)
    with pytest.raises(ValueError, match="seed"):
        chat.ask(WORDS, seed=-1)
