"""The generated world as training data in LLaVA's format: a record per question, on videos and on pictures.

Source: SPEC 13 (data JSON); `relevant_s` is ours: the seconds that show what is asked about.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vxlpro_jax.data.synthetic import Event, SyntheticVideo
from vxlpro_jax.data.synthetic_questions import Question, draw_question, sample_questions
from vxlpro_jax.data.synthetic_render import render_frames
from vxlpro_jax.vocabulary import VIDEO_TAG

_CARDS = ("shape_card", "digit_card")
_PICTURE_KINDS = {"shape_card": ("shape", "colour"), "digit_card": ("digit", "colour")}


def video_records(video: SyntheticVideo, name: str, per_kind: int = 1) -> list[dict[str, Any]]:
    """A record for each question about the video, whose file is `name`."""
    return [
        {
            "id": f"{Path(name).stem}-{number}",
            "video": name,
            "kind": question.kind,
            "conversations": _turns(question),
            "relevant_s": relevant_spans(question, video.events),
        }
        for number, question in enumerate(sample_questions(video, per_kind))
    ]


def relevant_spans(question: Question, events: tuple[Event, ...]) -> list[list[float]]:
    """[start, end] of the events that one has to see to answer: the answering one; for `first` both cards it names."""
    answering = [event for event in events if event.start_s == question.start_s]
    if question.kind == "first":
        words = set(re.findall(r"[a-z]+|\d", question.question.lower()))
        cards = [event for event in events if event.kind in _CARDS]
        named = [card for card in cards if {card.glyph, card.colour} & words]
        answering = named if len(named) == 2 else cards
    return [[event.start_s, event.end_s] for event in answering]


def write_pictures(video: SyntheticVideo, folder: Path, stem: str, size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Writes a picture of each card of the video as PNG; yields a record with a question about it."""
    rng = np.random.default_rng([video.seed, video.index, 389])
    for number, event in enumerate(event for event in video.events if event.kind in _CARDS):
        path = folder / f"{stem}-card{number}.png"
        part = path.with_name(f".part-{path.name}")
        pixels = render_frames(video, np.array([(event.start_s + event.end_s) / 2]), size)[0]
        Image.fromarray(pixels).save(part, format="PNG")
        part.replace(path)
        kinds = _PICTURE_KINDS[event.kind]
        question = draw_question(rng, kinds[int(rng.integers(len(kinds)))], (event,))
        yield {"id": path.stem, "image": path.name, "kind": question.kind, "conversations": _turns(question)}


def _turns(question: Question) -> list[dict[str, str]]:
    return [
        {"from": "human", "value": f"{VIDEO_TAG}\n{question.question}"},
        {"from": "gpt", "value": question.answer},
    ]
