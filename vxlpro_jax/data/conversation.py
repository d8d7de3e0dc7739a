"""Conversations and questions to token ids, with labels and the marks of what was asked.

Source: SPEC 12 (quirk 11) and 13 (conversation ids, labels).
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from vxlpro_jax.types import IGNORE_LABEL, VIDEO_MARK, StampConfig
from vxlpro_jax.vocabulary import IM_END, IM_START, SYSTEM_PROMPT, VIDEO_TAG, Tokenize

Turn = dict[str, str]
"""{"from": "human" or "gpt", "value": text}"""


class Prompt(NamedTuple):
    """One row before its videos are spliced in, each array int32 or bool [L].

    ids: tokens, VIDEO_MARK where a video goes. labels: the token itself where the loss counts it, IGNORE_LABEL
    elsewhere. question: True on the tokens of what the user asked.
    """

    ids: np.ndarray
    labels: np.ndarray
    question: np.ndarray


class _PromptBuilder:
    """Collects pieces; a piece is tokenized by itself, as the released code does around its marks."""

    def __init__(self, tokenize: Tokenize):
        self.tokenize = tokenize
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.question: list[bool] = []

    def add(self, text: str, label: bool = False, question: bool = False) -> None:
        self.add_ids(self.tokenize(text) if text else [], label, question)

    def add_ids(self, ids: Sequence[int], label: bool = False, question: bool = False) -> None:
        self.ids += ids
        self.labels += list(ids) if label else [IGNORE_LABEL] * len(ids)
        self.question += [question] * len(ids)

    def build(self) -> Prompt:
        return Prompt(np.array(self.ids, np.int32), np.array(self.labels, np.int32), np.array(self.question, bool))


def question_prompt(
    question: str, tokenize: Tokenize, num_videos: int = 1, context: str = "", answer: str | None = None
) -> Prompt:
    """The inference prompt: system, videos, then the question, up to where the assistant begins (quirk 11: one
    newline).

    context: text shown before the question (subtitles). answer: appended with its end marker and labelled, for training
    on exactly what inference sees. Raises ValueError on an empty question.
    """
    question = question.strip()
    if not question:
        raise ValueError("the question is empty: ask something, for example 'What happens in this video?'")
    builder = _PromptBuilder(tokenize)
    builder.add(f"{IM_START}system\n{SYSTEM_PROMPT}{IM_END}\n{IM_START}user\n")
    for _ in range(num_videos):
        builder.add_ids([VIDEO_MARK])
        builder.add("\n")
    builder.add(f"{context}\n" if context else "")
    builder.add(question, question=True)
    builder.add(f"{IM_END}\n{IM_START}assistant\n")
    if answer is not None:
        builder.add(f"{answer}{IM_END}", label=True)
    return builder.build()


def follow_up_ids(question: str, tokenize: Tokenize) -> list[int]:
    """What follows the tokens of an answer when one asks on: its end marker, and the next question."""
    builder = _PromptBuilder(tokenize)
    builder.add(f"{IM_END}\n{IM_START}user\n")
    builder.add(question.strip())
    builder.add(f"{IM_END}\n{IM_START}assistant\n")
    return builder.ids


def normalise_turns(turns: Sequence[Turn]) -> list[Turn]:
    """Moves a single video tag of a turn to its front, as the released data code does."""
    moved = []
    for turn in turns:
        value = turn["value"]
        if value.count(VIDEO_TAG) == 1 and not value.startswith(VIDEO_TAG):
            value = f"{VIDEO_TAG}\n{value.replace(VIDEO_TAG, '').strip()}".strip()
        moved.append({**turn, "value": value})
    return moved


def conversation_prompt(
    turns: Sequence[Turn], tokenize: Tokenize, label_mask: Literal["released", "answers"]
) -> Prompt:
    """A training row of a whole conversation (SPEC 13). A leading turn of the assistant is dropped.

    label_mask: which tokens are targets, see VideoXLProConfig. Differs from question_prompt: two newlines follow a
    video, as in the released training code.
    """
    released = label_mask == "released"
    turns = normalise_turns(turns)
    while turns and turns[0]["from"] != "human":
        turns = turns[1:]
    if not turns:
        raise ValueError("the conversation has no turn from 'human': each record needs one")
    builder = _PromptBuilder(tokenize)

    def open_turn(role: str) -> None:
        builder.add(IM_START, label=released)
        builder.add(f"{role}\n")

    def close_turn(label_end: bool) -> None:
        builder.add(IM_END, label=label_end)
        builder.add("\n", label=released)

    open_turn("system")
    builder.add(SYSTEM_PROMPT)
    close_turn(released)
    for turn in turns:
        asked = turn["from"] == "human"
        open_turn("user" if asked else "assistant")
        first, *rest = turn["value"].split(VIDEO_TAG)
        builder.add(first, label=not asked, question=asked)
        for text in rest:
            builder.add_ids([VIDEO_MARK])
            builder.add("\n")
            if text.startswith("\n"):
                builder.add("\n")
            builder.add(text.removeprefix("\n"), label=not asked, question=asked)
        close_turn(released or not asked)
    return builder.build()


def fitted_conversation(
    turns: Sequence[Turn], tokenize: Tokenize, label_mask: Literal["released", "answers"], room: int
) -> tuple[Prompt, int]:
    """The prompt of as many rounds as fit into `room` text tokens, and how many rounds at the end were left out.

    A round is a question with its answer: an answer is never cut (the released code cuts the row at the right, whatever
    stands there). Raises ValueError where not even the first round fits.
    """
    for num_rounds in range(len(turns) // 2, 0, -1):
        prompt = conversation_prompt(turns[: 2 * num_rounds], tokenize, label_mask)
        text_len = int((prompt.ids != VIDEO_MARK).sum())
        if text_len <= room:
            return prompt, len(turns) // 2 - num_rounds
    raise ValueError(f"too long: the first question and its answer have {text_len} tokens of text, room is for {room}")


def stamp_ids(group_times_s: Sequence[float] | np.ndarray, stamps: StampConfig, tokenize: Tokenize) -> list[list[int]]:
    """Token ids of each group's time stamp; group_times_s holds the time of each group's first frame in seconds (SPEC
    9.1)."""
    return [tokenize(stamps.text.format(time)) for time in group_times_s]
