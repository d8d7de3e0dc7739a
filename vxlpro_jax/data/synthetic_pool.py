"""A pool of generated fine-tuning data of which a known part is redundant, for comparing pruned with random subsets.

Source: ours, after paper 4.8 (Table 7); docs/pruning.md. Every video has six questions: of a busy one about its seven
events, of a still or slow one about the one card that it shows all the time. Things are named by catalogue numbers, a
way of answering that the embedded model was not taught: so there is something to fine-tune it for.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vxlpro_jax.data.synthetic import (
    COLOURS,
    DIGITS,
    DIRECTIONS,
    GROUP_S,
    SHAPES,
    SyntheticVideo,
    draw_event,
    sample_video,
)
from vxlpro_jax.data.synthetic_files import write_video
from vxlpro_jax.data.synthetic_questions import WHEN_ANSWER, Question, draw_question, sample_questions
from vxlpro_jax.data.synthetic_records import relevant_spans
from vxlpro_jax.data.synthetic_redundancy import Motion, RedundantVideo, draw_video, write_redundant_video
from vxlpro_jax.vocabulary import VIDEO_TAG

LENGTH_S = 64
NOUNS = ("shape", "digit")  # cards that a question about two of them may name so
SIZE = (56, 56)  # (H, W), the tiny tower's own: rendering is what the pool costs
# Single tokens of the embedded model's vocabulary, as are the names themselves.
CATALOGUE = {name: str(number) for number, name in enumerate((*COLOURS, *SHAPES, *DIGITS, *DIRECTIONS, *NOUNS), 40)}
PER_KIND = 2  # questions of each of the three kinds that a single card can answer


def write_pool(folder: Path, seed: int, worlds: dict[str, int]) -> Iterator[list[dict[str, Any]]]:
    """Write the first worlds[name] videos of each world, as FOLDER/NAME_NNNNN.mp4, and yield each one's records.

    Worlds: "still" and "slow" (data/synthetic_redundancy.py), or one of data/synthetic.py. Files that are there are
    kept; video i depends on seed, world and i alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for world, count in worlds.items():
        for index in range(count):
            path = folder / f"{world}_{index:05d}.mp4"
            if world in ("still", "slow"):
                redundant, questions = draw_redundant(seed, index, world)  # type: ignore[arg-type]
                if not path.exists():
                    write_redundant_video(redundant, path, SIZE)
                yield _records(path.name, questions, redundant)
            else:
                video = sample_video(seed, index, LENGTH_S, world)
                if not path.exists():
                    write_video(video, path, SIZE)
                yield _records(path.name, sample_questions(video), video)


def draw_redundant(seed: int, index: int, motion: Motion) -> tuple[RedundantVideo, list[Question]]:
    """A still or slow video that shows one card from beginning to end, and the questions about it."""
    rng = np.random.default_rng([seed, index, 613])
    has_digit = bool(rng.integers(2))
    glyph, colour = str(rng.choice(DIGITS if has_digit else SHAPES)), str(rng.choice(list(COLOURS)))
    card = draw_event(rng, "digit_card" if has_digit else "shape_card", glyph, colour, 0.0, float(LENGTH_S))
    video = replace(draw_video(seed, index, motion, LENGTH_S), events=(card,))
    kinds = ("digit" if has_digit else "shape", "colour", "when")
    return video, [draw_question(rng, kind, (card,)) for kind in kinds for _ in range(PER_KIND)]


def _records(name: str, questions: list[Question], video: SyntheticVideo | RedundantVideo) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{Path(name).stem}-{number}",
            "video": name,
            "kind": question.kind,
            "conversations": [
                {"from": "human", "value": f"{VIDEO_TAG}\n{question.question}"},
                {"from": "gpt", "value": _answer(question)},
            ],
            "relevant_s": relevant_spans(question, video.events),
        }
        for number, question in enumerate(questions)
    ]


def _answer(question: Question) -> str:
    """The catalogue number of the true answer. A time is that of the group of frames in which the event begins: the
    model sees no other."""
    if question.kind == "when":
        return WHEN_ANSWER.format(question.start_s // GROUP_S * GROUP_S)
    named = [word for word in question.answer.split() if word in CATALOGUE]
    return CATALOGUE[named[0]]
