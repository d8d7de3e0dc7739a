"""Rows whose question their video does not answer, with an answer drawn at random: what makes a model guess.

Source: ours (docs/tiny.md). Three kinds of video: one in which what is asked about is missing, one without any picture,
and one whose frames are shuffled, so that neither direction nor order can be told. Without such rows a model answers
them by habit, which is worse than chance, and reads a direction out of shuffled frames.
"""

import re
from dataclasses import replace

import numpy as np

from vxlpro_jax.data.synthetic import sample_video
from vxlpro_jax.data.synthetic_bank import (
    GROUPS_PER_VIDEO,
    SIZE_SHARES,
    SIZES,
    GroupBank,
    recorded,
    unlabelled_groups,
)
from vxlpro_jax.data.synthetic_questions import CANDIDATES, QUESTION_KINDS, WHEN_ANSWER, draw_question
from vxlpro_jax.data.synthetic_render import render_frames
from vxlpro_jax.data.synthetic_rows import BankIndex, ComposedRow, compose_row

BLANK_SHARE, SHUFFLED_SHARE = 0.25, 0.4  # of guessed rows; in the others what is asked about is missing
SHUFFLED_KINDS = ("direction", "first")


def shuffled_video(seed: int, index: int, image_size: int, frames_per_group: int) -> GroupBank:
    """A standard video of sixteen groups with its frames in a random order; its groups carry no labels.

    Video `index` of the seed holds what `sample_video(seed, index)` says.
    """
    rng = np.random.default_rng([seed, index])
    length_s = GROUPS_PER_VIDEO * frames_per_group
    frames = render_frames(
        sample_video(seed, index, length_s), np.arange(float(length_s)), SIZES[rng.choice(len(SIZES), p=SIZE_SHARES)]
    )
    small = recorded(rng, frames, image_size)[rng.permutation(length_s)]
    return unlabelled_groups(small.reshape(GROUPS_PER_VIDEO, frames_per_group, image_size, image_size, 3))


def blank_video(seed: int, index: int, image_size: int, frames_per_group: int) -> GroupBank:
    """Sixteen groups, each of frames of one grey or one colour."""
    rng = np.random.default_rng([seed, index])
    levels = rng.integers(0, 256, (GROUPS_PER_VIDEO, 1, 1, 1, 3))
    levels[: GROUPS_PER_VIDEO // 2] = levels[: GROUPS_PER_VIDEO // 2, ..., :1]
    shape = (GROUPS_PER_VIDEO, frames_per_group, image_size, image_size, 3)
    return unlabelled_groups(np.broadcast_to(levels, shape).astype(np.uint8))


class GuessRows:
    """Composes rows that can only be guessed at, from a bank and from `num_shuffled` shuffled and some blank videos.

    The groups of the shuffled videos of `seed`, and after them the blank ones up to `num_groups`, follow those of the
    bank at `offset`.
    """

    def __init__(self, index: BankIndex, seed: int, num_shuffled: int, num_groups: int, offset: int):
        self.index, self.seed, self.num_shuffled, self.offset = index, seed, num_shuffled, offset
        self.blank = np.arange(num_shuffled * GROUPS_PER_VIDEO, num_groups) + offset

    def draw(self, rng: np.random.Generator, num_groups: int, when_share: float, is_settled: bool) -> ComposedRow:
        """A row of num_groups groups; no group of it is relevant.

        is_settled: the answer about shuffled frames is always the first possible one, instead of any. Random answers
        make all equally likely, but what is left of the line of motion still decides between equals.
        """
        if num_groups <= GROUPS_PER_VIDEO and rng.random() < SHUFFLED_SHARE:
            return self._shuffled(rng, num_groups, is_settled)
        row = compose_row(rng, self.index, num_groups, when_share, shows_asked=False)
        groups = row.bank_groups
        if rng.random() < BLANK_SHARE:
            groups = np.full(num_groups, rng.choice(self.blank))
        answers = possible_answers(QUESTION_KINDS[row.kind], row.question, row.times_s)
        return replace(row, bank_groups=groups, answer=str(rng.choice(answers)))

    def _shuffled(self, rng: np.random.Generator, num_groups: int, is_settled: bool) -> ComposedRow:
        video = int(rng.integers(self.num_shuffled))
        world = sample_video(self.seed, video, GROUPS_PER_VIDEO * self.index.frames_per_group)
        kind = SHUFFLED_KINDS[rng.integers(len(SHUFFLED_KINDS))]
        question = draw_question(rng, kind, world.events).question
        chosen = np.sort(rng.permutation(GROUPS_PER_VIDEO)[:num_groups])
        times_s = self.index.frames_per_group * np.arange(num_groups)
        answers = possible_answers(kind, question, times_s)
        return ComposedRow(
            bank_groups=self.offset + video * GROUPS_PER_VIDEO + chosen,
            times_s=times_s,
            relevant=np.zeros(num_groups, bool),
            question=question,
            answer=answers[0] if is_settled else str(rng.choice(answers)),
            kind=QUESTION_KINDS.index(kind),
        )


def possible_answers(kind: str, question: str, times_s: np.ndarray) -> list[str]:
    """All answers of the right kind that the question leaves open."""
    if kind == "when":
        return [WHEN_ANSWER.format(time) for time in times_s]
    if kind == "first":
        named = re.search(r"the ([^,?]+) or the ([^,?.]+)", question)
        if named is None:
            raise ValueError(f"{question!r} names no two things (data/synthetic_questions.py).")
        return [f"the {name}" for name in named.groups()]
    return list(CANDIDATES[kind])
