"""Asking: a batch equals single questions, the context is kept, evidence and text are what they say, nothing compiles
twice."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from tests.infer.askable import CONFIG, WORDS, askable, frames, random_index, tokenizer
from tests.small_model import small_params
from vxlpro_jax.data.conversation import question_prompt
from vxlpro_jax.infer import replies
from vxlpro_jax.infer.answer import Answer, VideoXLPro
from vxlpro_jax.infer.generate import prefill
from vxlpro_jax.infer.kept_rows import tokens_at
from vxlpro_jax.infer.replies import plan_request
from vxlpro_jax.types import VIDEO_MARK
from vxlpro_jax.vocabulary import TokenIds

QUESTIONS = ["When?", WORDS, "Which card appeared first, the red circle or the blue star, and where did it go then?"]
STAMP, TOKENS = CONFIG.stamps.num_tokens, CONFIG.tokens_per_group
GROUP = CONFIG.dts.frames_per_group


class Spelled:
    """A tokenizer whose texts are the ids themselves, so that tests see what was generated."""

    def encode(self, text):
        return tokenizer().encode(text)

    def decode(self, ids):
        return " ".join(map(str, ids))


@pytest.fixture(scope="module")
def model() -> VideoXLPro:
    return VideoXLPro(CONFIG, small_params(CONFIG), Spelled())


def text_len(question: str, num_videos: int = 1) -> int:
    return int((question_prompt(question, tokenizer().encode, num_videos).ids != VIDEO_MARK).sum())


def same(one: Answer, other: Answer) -> None:
    assert (one.text, one.num_tokens, one.num_kept) == (other.text, other.num_tokens, other.num_kept)
    same_evidence(one, other)


def same_evidence(one: Answer, other: Answer) -> None:
    assert [span[:2] for span in one.evidence] == [span[:2] for span in other.evidence]
    np.testing.assert_allclose([s.score for s in one.evidence], [s.score for s in other.evidence], atol=1e-5)


@pytest.mark.parametrize(
    "options, num_groups",
    [({}, 6), ({"budget": 40}, 12), ({"keep_rate": 0.7}, 12), ({}, 40), ({"temperature": 3.0}, 6)],
)
def test_a_batch_equals_single_questions(model, options, num_groups):
    index = random_index(num_groups)
    options = {"max_new_tokens": 5, "seed": 3} | options
    together = model.ask(index, QUESTIONS, **options)
    alone = [model.ask(index, question, **options) for question in QUESTIONS]
    assert isinstance(alone[0], Answer) and len(together) == 3
    for one, other in zip(together, alone, strict=True):
        same(one, other)
    assert len({one.text for one in together}) > 1  # else nothing was compared


def test_a_batch_reads_what_single_questions_read(model):
    """The logits themselves: neither padding nor neighbours take part."""
    indexes = [random_index(5)]

    def logits(questions):
        request = model._request(indexes, questions, 5, None, None, None)
        plans, _ = plan_request(request, model.params)
        tokens = tokens_at(request.videos, plans.visual)
        return np.asarray(prefill(request.model, model.params, plans, tokens, 128).logits)

    together = logits(QUESTIONS)
    for row, question in enumerate(QUESTIONS):
        np.testing.assert_allclose(together[row], logits([question])[0], atol=1e-4)
    assert np.abs(together[0] - together[1]).max() > 0.1


def test_sampling_and_seeds(model):
    index = random_index(6)

    def text(**options):
        return model.ask(index, WORDS, max_new_tokens=5, **options).text

    greedy = text()
    assert text() == greedy == text(temperature=2.0, top_k=1) == text(temperature=2.0, top_p=1e-6) == text(seed=9)
    warm = text(temperature=9.0, seed=1)
    assert warm == text(temperature=9.0, seed=1)
    assert warm != text(temperature=9.0, seed=2)
    assert len(text(temperature=9.0, seed=1).split()) == 5


@pytest.mark.parametrize("marker", ["im_end", "end_of_text"])
def test_text_ends_before_either_marker(model, marker):
    index = random_index(6)
    free = model.ask(index, WORDS, max_new_tokens=5).text.split()
    stopping = VideoXLPro(CONFIG, model.params, Spelled())
    unused = CONFIG.llm.vocab_size - 1
    stopping.token_ids = TokenIds(unused, unused)._replace(**{marker: int(free[3])})
    assert stopping.ask(index, WORDS, max_new_tokens=5).text.split() == free[: free.index(free[3])]


def test_streamed_pieces_add_up(model):
    pieces = ["", "", ""]

    def show(row: int, text: str) -> None:
        assert text
        pieces[row] += text

    answers = model.ask(random_index(6), QUESTIONS, max_new_tokens=5, on_text=show)
    assert pieces == [one.text for one in answers]


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_characters_are_never_cut_while_streaming(monkeypatch, cut):
    """The token of every byte by itself; `cut` bytes of the last character never come."""
    written = "  日本 é😀\n ok 日"
    alphabet = tokenizer()._backend.get_vocab()
    of_byte = {bytes([byte]): text for byte, text in _byte_alphabet().items()}
    data = written.encode()
    ids = [alphabet[of_byte[data[i : i + 1]]] for i in range(len(data) - cut)]
    steps = [np.array([number], np.int32) for number in ids]
    monkeypatch.setattr(replies, "decode", lambda *_: iter(steps))
    pieces: list[str] = []
    answer = askable().ask(random_index(6), WORDS, max_new_tokens=5, on_text=lambda _, text: pieces.append(text))
    assert "".join(pieces) == answer.text
    assert answer.text.startswith("日本 é😀\n ok")
    assert answer.text.endswith("日") == (cut == 0)
    assert len(pieces) > 3
    assert not any("\ufffd" in piece for piece in (pieces if cut == 0 else pieces[:-1]))


def _byte_alphabet() -> dict[int, str]:
    """How byte-level tokenizers spell each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def _compiled(caplog, call) -> list[str]:
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        call()
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("Compiling")]


def test_a_second_question_compiles_nothing(model, caplog):
    first, second = random_index(9), random_index(11, seed=1)  # both fill the bucket of 12 groups

    def ask(index, question):
        return lambda: model.ask(index, question, max_new_tokens=4)

    def listed(questions):
        return lambda: model.ask(first, questions, max_new_tokens=4)

    ask(first, WORDS)()
    for call in (ask(first, "Is it red?"), ask(second, WORDS), ask(second, "Which digit is on the card, please?")):
        assert _compiled(caplog, call) == []
    listed(QUESTIONS)()
    assert _compiled(caplog, listed(QUESTIONS[::-1])) == []
    assert _compiled(caplog, lambda: model.ask(first, "is " * 60, max_new_tokens=4)) != []  # the watch works


def test_a_second_video_compiles_nothing(caplog):
    model = askable()
    model.index(frames(9), frames_per_batch=GROUP)
    assert _compiled(caplog, lambda: model.index(frames(13, seed=1), frames_per_batch=GROUP)) == []


def test_several_videos_each_with_its_own_stamps_and_evidence(model):
    one, other, photo = random_index(6), random_index(9, seed=1, spacing_s=0.5), random_index(1, seed=2)
    photo = replace(photo, kind="picture", end_s=0.0, sampling={"spacing_s": 0.0})
    together = model.ask([one, other, photo], WORDS, max_new_tokens=4)
    alone = [model.ask(index, WORDS, max_new_tokens=4) for index in (one, other, photo)]
    assert together.num_tokens == text_len(WORDS, 3) + 16 * (STAMP + TOKENS)
    assert together.num_visual == together.num_kept == 16 * TOKENS
    assert together.spacings_s == [1.0, 0.5, 0.0]
    for spans, single in zip(together.evidence_by_video, alone, strict=True):
        same_evidence(SimpleNamespace(evidence=spans), single)
    assert together.evidence == sorted(sum(together.evidence_by_video, []), key=lambda span: -span.score)
    assert model.ask([other, one, photo], WORDS, max_new_tokens=4).text != together.text
    request = model._request([one, other, photo], [WORDS], 4, None, None, None)
    ids, masks = request.batch.stamp_ids[0], request.batch.stamp_mask[0]
    written = [tokenizer().decode(ids[group][mask]) for group, mask in enumerate(masks) if mask.any()]
    times = [*one.group_times_s, *other.group_times_s, 0.0]
    assert written == [CONFIG.stamps.text.format(time) for time in times]


def test_whatever_is_no_index_yet_is_encoded(tmp_path):
    model = askable()
    Image.fromarray(frames(1)[0]).save(tmp_path / "photo.png")
    photo = model.index(tmp_path / "photo.png")
    photo.save(tmp_path / "photo.vxl")
    answers = [
        model.ask(video, WORDS, max_new_tokens=4)
        for video in (photo, tmp_path / "photo.png", str(tmp_path / "photo.vxl"))
    ]
    same(answers[0], answers[1])
    same(answers[0], answers[2])
    assert answers[0].evidence == [(0, 0, 1.0)]


def test_one_frame(model):
    index = askable().index(frames(1), frames_per_batch=GROUP)
    answer = model.ask(index, WORDS, max_new_tokens=4)
    assert answer.num_kept == answer.num_visual == TOKENS
    assert [span[:2] for span in answer.evidence] == [(0.0, 1.0)]


@pytest.mark.parametrize("budget", [1, 5, STAMP + 1, 30, 31, 32, 33, 100, 10**12])
def test_a_budget_counts_stamps(model, budget):
    index = random_index(12)
    answer = model.ask(index, WORDS, max_new_tokens=4, budget=budget)
    used = answer.num_tokens - text_len(WORDS)
    assert used <= budget
    assert used > min(budget, 12 * (STAMP + TOKENS)) - (STAMP + 1)  # what is left has no room for one more group
    assert answer.num_kept <= max(0, used - STAMP)
    same_evidence(answer, model.ask(index, WORDS, max_new_tokens=4))


def test_what_does_not_fit_is_chosen_by_the_selector(model):
    """Neither text nor answer is cut; evidence is the same as in a context that holds everything."""
    index = random_index(40)
    for question, max_new_tokens in ((WORDS, 4), (QUESTIONS[2], 60)):
        answer = model.ask(index, question, max_new_tokens=max_new_tokens)
        assert answer.num_tokens <= CONFIG.max_context_len - max_new_tokens
        assert answer.num_tokens > CONFIG.max_context_len - max_new_tokens - (STAMP + 1)
        assert 0 < answer.num_kept < answer.num_visual == 40 * TOKENS
        roomy = VideoXLPro(replace(CONFIG, max_context_len=4096), model.params, Spelled())
        everything = roomy.ask(index, question, max_new_tokens=4)
        assert everything.num_kept == 40 * TOKENS
        same_evidence(answer, everything)


def test_a_longer_context_keeps_more_and_turns_positions_less(model):
    index = random_index(40)
    with pytest.warns(UserWarning, match="context_len=384: the language model was trained on 192 rows"):
        longer = VideoXLPro(CONFIG, model.params, Spelled(), context_len=384)
    assert longer.fingerprint == model.fingerprint
    answer = longer.ask(index, WORDS, max_new_tokens=5)
    assert answer.num_kept == answer.num_visual > model.ask(index, WORDS, max_new_tokens=5).num_kept
    roomy = VideoXLPro(replace(CONFIG, max_context_len=384), model.params, Spelled())  # trained there, it says
    assert roomy.ask(index, WORDS, max_new_tokens=5).text != answer.text
    with pytest.raises(ValueError, match="no room for video"):
        VideoXLPro(CONFIG, model.params, Spelled(), context_len=10).ask(index, WORDS, max_new_tokens=5)


def test_the_kept_groups_are_those_of_which_something_was_read(model):
    """All of them where everything is kept, over all videos; with a budget those of the best scores."""
    one, two = random_index(3), random_index(4, seed=1)
    assert model.ask([one, two], WORDS, max_new_tokens=2).kept_groups == list(range(7))
    long = random_index(40, seed=2)
    answer = model.ask(long, WORDS, max_new_tokens=2, budget=3 * (STAMP + TOKENS))
    assert 3 <= len(answer.kept_groups) <= 40 and answer.num_kept <= TOKENS * len(answer.kept_groups)
    only = model.ask(long, WORDS, max_new_tokens=2, budget=STAMP + 1)
    (group,) = only.kept_groups  # one token of one group: the best of all
    assert only.evidence[0].start_s <= long.group_times_s[group] < only.evidence[0].end_s


def test_keep_rate_follows_the_released_rule(model):
    index = random_index(12)
    answer = model.ask(index, WORDS, max_new_tokens=4, keep_rate=0.86)
    assert answer.num_kept == 40  # floor(48 x .86) = 41, down to a multiple of keep_multiple=2
    assert answer.num_tokens == text_len(WORDS) + 12 * STAMP + 40  # every stamp stays
    same_evidence(answer, model.ask(index, WORDS, max_new_tokens=4))
    with pytest.raises(ValueError, match="keep_rate=0.9 leaves"):
        model.ask(random_index(40), WORDS, keep_rate=0.9)
    with pytest.raises(ValueError, match="keeps none of 4 tokens"):
        model.ask(random_index(1), WORDS, keep_rate=0.4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"question": ""}, "question is empty"),
        ({"question": " \n"}, "question is empty"),
        ({"question": [WORDS, ""]}, "question is empty"),
        ({"question": "word " * 300}, "no room for video"),
        ({"videos": []}, "no video given"),
        ({"videos": "nothing.mp4"}, "no such file"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 10**9}, "lower max_new_tokens"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**70}, "seed"),
        ({"keep_rate": 0.0}, "keep_rate"),
        ({"keep_rate": float("nan")}, "keep_rate"),
        ({"keep_rate": 1.1}, "keep_rate"),
        ({"keep_rate": 0.5, "budget": 5}, "one of the two"),
        ({"budget": 0}, "budget"),
        ({"budget": -5}, "budget"),
        ({"subtitles": "nothing.srt"}, "nothing.srt"),
        ({"subtitles": "a.srt", "videos": ["a.mp4", "b.mp4"]}, "subtitles of one video"),
    ],
)
def test_wrong_requests(model, options, message):
    with pytest.raises(ValueError, match=message):
        model.ask(**{"videos": random_index(3), "question": WORDS} | options)


def test_no_question_has_no_answer(model):
    assert model.ask(random_index(3), []) == []


def test_an_index_belongs_to_its_encoder(model):
    index = random_index(3)
    zero = jax.tree.map(np.zeros_like, model.params)
    other_encoder = VideoXLPro(CONFIG, {**model.params, "projector": zero["projector"]}, Spelled())
    with pytest.raises(ValueError, match="random-0.mp4 was made by another encoder"):
        other_encoder.ask(index, WORDS)
    other_llm = VideoXLPro(CONFIG, {**model.params, "llm": zero["llm"]}, Spelled())
    assert other_llm.ask(index, WORDS, max_new_tokens=4).text != model.ask(index, WORDS, max_new_tokens=4).text
    with pytest.raises(ValueError, match="index is damaged"):
        model.ask(replace(index, tokens=index.tokens[..., :-1]), WORDS)


def test_subtitles_are_read_but_not_asked(model, tmp_path):
    path = tmp_path / "talk.srt"
    path.write_text("1\n00:00:01,000 --> 00:00:02,000\nred star\n\n2\n00:05:00,000 --> 00:05:01,000\nblue ring\n")
    index = random_index(3)
    batch = model._request([index], [WORDS], 4, None, None, path).batch
    text = tokenizer().decode(batch.text_ids[0])
    assert f"red star\n{WORDS}" in text and "blue ring" not in text
    assert tokenizer().decode(batch.text_ids[0][batch.query_mask[0]]) == WORDS
    silent = model.ask(index, WORDS, max_new_tokens=4)
    heard = model.ask(index, WORDS, max_new_tokens=4, subtitles=path)
    assert heard.num_tokens > silent.num_tokens
    same_evidence(heard, silent)


def test_seconds_are_told(model):
    answer = model.ask(random_index(3, spacing_s=2.5), WORDS, max_new_tokens=4)
    assert set(answer.timings) == {"prefill_s", "decode_s", "num_steps", "per_token_s"}
    assert answer.timings["prefill_s"] > 0 and 0 < answer.timings["num_steps"] <= 4
    assert answer.spacings_s == [2.5]


def test_thousands_of_groups(model):
    """Scores and selection of 16,384 frames, in a context that holds a small part of them."""
    index = random_index(4096)
    answer = model.ask(index, WORDS, max_new_tokens=4)
    assert answer.num_visual == 4096 * TOKENS and answer.num_tokens <= CONFIG.max_context_len - 4
    assert 0 < sum(span.end_s - span.start_s for span in answer.evidence) <= 0.2 * index.end_s
