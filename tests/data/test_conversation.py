"""Prompts read back as text: what stands where, what is a label, what is the question."""

import re

import numpy as np
import pytest

from vxlpro_jax.data.conversation import (
    Prompt,
    conversation_prompt,
    fitted_conversation,
    follow_up_ids,
    normalise_turns,
    question_prompt,
    stamp_ids,
)
from vxlpro_jax.models.presets import TINY, VIDEO_XL_PRO_3B
from vxlpro_jax.types import IGNORE_LABEL, VIDEO_MARK
from vxlpro_jax.vocabulary import IM_END, IM_START

SPECIAL = {IM_START: 1_000_001, IM_END: 1_000_002}
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


def tokenize(text: str) -> list[int]:
    """One token per character, special tokens whole."""
    pieces = re.split("|".join(f"({re.escape(name)})" for name in SPECIAL), text)
    return [i for piece in filter(None, pieces) for i in ([SPECIAL[piece]] if piece in SPECIAL else map(ord, piece))]


def spell(ids) -> str:
    names = {number: name for name, number in SPECIAL.items()} | {VIDEO_MARK: "[VIDEO]"}
    return "".join(names.get(int(i)) or chr(i) for i in ids)


def labelled(prompt: Prompt) -> str:
    """The text that the loss counts, with | where something is left out between."""
    counted = prompt.labels != IGNORE_LABEL
    assert (prompt.labels[counted] == prompt.ids[counted]).all()
    return "|".join(
        filter(None, "".join(spell([i]) if c else "\0" for i, c in zip(prompt.ids, counted, strict=True)).split("\0"))
    )


def human(text: str) -> dict[str, str]:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


def test_inference_prompt_has_one_newline_after_the_video():
    prompt = question_prompt("  What is it? ", tokenize)
    assert spell(prompt.ids) == (f"{SYSTEM}<|im_start|>user\n[VIDEO]\nWhat is it?<|im_end|>\n<|im_start|>assistant\n")
    assert spell(prompt.ids[prompt.question]) == "What is it?"
    assert (prompt.labels == IGNORE_LABEL).all()
    assert prompt.ids.dtype == prompt.labels.dtype == np.int32 and prompt.question.dtype == bool


def test_several_videos_context_and_answer():
    prompt = question_prompt("Which?", tokenize, num_videos=2, context="A line.", answer="The first")
    user = "<|im_start|>user\n[VIDEO]\n[VIDEO]\nA line.\nWhich?<|im_end|>\n"
    assert spell(prompt.ids) == f"{SYSTEM}{user}<|im_start|>assistant\nThe first<|im_end|>"
    assert spell(prompt.ids[prompt.question]) == "Which?"  # neither the subtitles nor the answer
    assert labelled(prompt) == "The first<|im_end|>"
    assert VIDEO_MARK not in question_prompt("Which?", tokenize, num_videos=0).ids


@pytest.mark.parametrize("question", ["", "  \n "])
def test_an_empty_question_raises(question):
    with pytest.raises(ValueError, match="the question is empty"):
        question_prompt(question, tokenize)


def test_training_rows_have_two_newlines_after_the_video():
    prompt = conversation_prompt([human("<image>\nWhat?"), gpt("A card.")], tokenize, "released")
    turns = "<|im_start|>user\n[VIDEO]\n\nWhat?<|im_end|>\n<|im_start|>assistant\nA card.<|im_end|>\n"
    assert spell(prompt.ids) == SYSTEM + turns
    assert spell(prompt.ids[prompt.question]) == "What?"


def test_both_label_masks():
    turns = [human("<image>\nOne?"), gpt("Yes."), human("Two?"), gpt("No.")]
    released = conversation_prompt(turns, tokenize, "released")
    answers = conversation_prompt(turns, tokenize, "answers")
    assert np.array_equal(released.ids, answers.ids)
    # Markers and the newline at the end of every turn count too (SPEC 13), roles and what is asked do not.
    frame = "<|im_start|>|<|im_end|>\n"
    answer = "<|im_start|>|{}<|im_end|>\n"
    assert labelled(released) == "".join([frame, frame, answer.format("Yes."), frame, answer.format("No.")])
    assert labelled(answers) == "Yes.<|im_end|>|No.<|im_end|>"


def test_every_human_turn_is_part_of_the_question():
    prompt = conversation_prompt([human("<image>\nOne?"), gpt("Yes."), human("Two?"), gpt("No.")], tokenize, "answers")
    assert spell(prompt.ids[prompt.question]) == "One?Two?"


def test_a_leading_turn_of_the_assistant_is_dropped():
    turns = [human("<image>\nOne?"), gpt("Yes.")]
    plain = conversation_prompt(turns, tokenize, "released")
    led = conversation_prompt([gpt("Hello."), *turns], tokenize, "released")
    assert np.array_equal(plain.ids, led.ids) and np.array_equal(plain.labels, led.labels)


@pytest.mark.parametrize("turns", [[], [gpt("Hello.")]])
def test_a_conversation_without_a_human_raises(turns):
    with pytest.raises(ValueError, match="no turn from 'human'"):
        conversation_prompt(turns, tokenize, "answers")


def test_a_single_tag_moves_to_the_front_and_several_stay():
    assert normalise_turns([human("What is in <image> here?")])[0]["value"] == "<image>\nWhat is in  here?"
    assert normalise_turns([human("<image>\nWhat?")])[0]["value"] == "<image>\nWhat?"
    two = human("First <image> then <image>, which?")
    assert normalise_turns([two]) == [two]
    prompt = conversation_prompt([two, gpt("None.")], tokenize, "answers")
    assert spell(prompt.ids).split("user\n")[1].startswith("First [VIDEO]\n then [VIDEO]\n, which?<|im_end|>")
    assert spell(prompt.ids[prompt.question]) == "First  then , which?"


def qwen_pieces(text: str) -> list[int]:
    """Qwen2's splitting rule as far as stamps go: words, spaces, single digits, signs."""
    return [hash(piece) for piece in re.findall(r" ?[A-Za-z]+|\d|[^\sA-Za-z\d]|\s", text)]


def test_stamps_grow_by_a_token_at_ten_thousand_seconds():
    times = [0.0, 12.04, 9999.94, 9999.96, 10_000.0]
    stamps = stamp_ids(times, VIDEO_XL_PRO_3B.stamps, qwen_pieces)
    usual = VIDEO_XL_PRO_3B.stamps.num_tokens
    assert [len(stamp) for stamp in stamps] == [usual, usual, usual, usual + 1, usual + 1]
    texts = [spell(stamp) for stamp in stamp_ids(times, VIDEO_XL_PRO_3B.stamps, tokenize)]
    assert texts == ["Time 0000.0s:", "Time 0012.0s:", "Time 9999.9s:", "Time 10000.0s:", "Time 10000.0s:"]
    assert [spell(stamp) for stamp in stamp_ids([7.0, 64.0], TINY.stamps, tokenize)] == ["t0007", "t0064"]


@pytest.mark.parametrize("label_mask", ["released", "answers"])
def test_what_does_not_fit_leaves_by_whole_rounds(label_mask):
    """Whatever the room, every answer that is left is whole, and what is left out is counted."""
    turns = [human("<image>\nOne?"), gpt("Yes, a card."), human("Two?"), gpt("No."), human("Three?"), gpt("Maybe.")]
    wholes = [conversation_prompt(turns[: 2 * n], tokenize, label_mask) for n in (1, 2, 3)]
    lengths = [int((whole.ids != VIDEO_MARK).sum()) for whole in wholes]
    seen = set()
    for room in range(lengths[0], lengths[2] + 20):
        prompt, dropped = fitted_conversation(turns, tokenize, label_mask, room)
        assert (prompt.ids != VIDEO_MARK).sum() <= room
        assert np.array_equal(prompt.ids, wholes[2 - dropped].ids)
        assert np.array_equal(prompt.labels, wholes[2 - dropped].labels)
        if dropped:
            assert lengths[3 - dropped] > room, "no more is left out than has to be"
        seen.add(dropped)
    assert seen == {0, 1, 2}
    with pytest.raises(ValueError, match=f"have {lengths[0]} tokens of text, room is for {lengths[0] - 1}"):
        fitted_conversation(turns, tokenize, label_mask, lengths[0] - 1)


def test_a_follow_up_is_what_training_writes_between_two_answers():
    turns = [("human", "Red?"), ("gpt", "Yes."), ("human", "And blue?"), ("gpt", "No.")]
    whole = conversation_prompt([{"from": who, "value": text} for who, text in turns], tokenize, "answers")
    following = follow_up_ids(" And blue?\n", tokenize)
    assert spell(following) == "<|im_end|>\n<|im_start|>user\nAnd blue?<|im_end|>\n<|im_start|>assistant\n"
    assert f"Yes.{spell(following)}No." in spell(whole.ids)
