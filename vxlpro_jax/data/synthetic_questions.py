"""Questions about the generated world, their true answers, and how a given answer is marked.

Source: ours (docs/tiny.md). A question is drawn so that exactly one answer is right in its video: what would be
ambiguous is named.
"""

import re
from dataclasses import dataclass

import numpy as np

from vxlpro_jax.data.synthetic import COLOURS, DIGITS, DIRECTIONS, SHAPES, Event, SyntheticVideo

QUESTION_KINDS = ("shape", "colour", "digit", "direction", "when", "first")
WHEN_ANSWER = "at {:04.0f} s"

# {shape}, {digit} and {colour} are those of the event asked about. A template that names nothing is used only where
# the video holds one event of that kind.
SHAPE_TEMPLATES = (
    "What shape is on the card?",
    "Which shape is on the card?",
    "What shape is shown on the card?",
    "Which shape does the card show?",
    "What is the shape on the card?",
    "Name the shape on the card.",
    "What is the {colour} shape on the card?",
    "Which {colour} shape is on the card?",
)
COLOUR_TEMPLATES = {
    "shape_card": (
        "What colour is the shape on the card?",
        "Which colour is the shape on the card?",
        "What is the colour of the shape on the card?",
        "Which colour does the shape on the card have?",
        "What colour is the {shape} on the card?",
        "What is the colour of the {shape}?",
        "Which colour does the {shape} have?",
    ),
    "digit_card": (
        "What colour is the digit on the card?",
        "Which colour is the number on the card?",
        "What is the colour of the digit on the card?",
        "Which colour does the digit on the card have?",
        "What colour is the {digit} on the card?",
        "What is the colour of the {digit}?",
        "Which colour does the digit {digit} have?",
    ),
}
DIGIT_TEMPLATES = (
    "Which digit is on the card?",
    "What digit is on the card?",
    "What number is on the card?",
    "Which number does the card show?",
    "Which digit is shown on the card?",
    "What is the digit on the card?",
    "Name the digit on the card.",
    "What is the {colour} digit on the card?",
    "Which {colour} number is on the card?",
)
DIRECTION_TEMPLATES = (
    "In which direction does the shape move?",
    "Which way does the moving shape go?",
    "What direction does the moving shape move in?",
    "Where does the moving shape go?",
    "In which direction is the shape moving?",
    "In which direction does the {shape} move?",
    "Which way does the {colour} {shape} go?",
    "Where does the {colour} shape move?",
    "Which way does the {shape} move?",
)
WHEN_TEMPLATES = {
    "shape_card": (
        "When does the card with the shape appear?",
        "When is the shape card shown?",
        "At what time does the card with the shape appear?",
        "When do we see the shape on the card?",
        "When does the {shape} appear?",
        "When does the card with the {shape} appear?",
        "When does the {colour} card appear?",
        "When is the {colour} {shape} shown?",
        "At what time does the {colour} {shape} appear?",
    ),
    "digit_card": (
        "When does the card with the digit appear?",
        "When is the digit card shown?",
        "At what time does the card with the number appear?",
        "When do we see the digit on the card?",
        "When does the {digit} appear?",
        "When does the card with the {digit} appear?",
        "When does the {colour} card appear?",
        "When is the digit {digit} shown?",
        "At what time does the {colour} digit appear?",
    ),
    "mover": (
        "When does the moving shape appear?",
        "When does the shape move?",
        "When does the {shape} move?",
        "At what time does the {colour} {shape} move?",
    ),
}
FIRST_TEMPLATES = (
    "Which came first, the {a} or the {b}?",
    "Which comes first, the {a} or the {b}?",
    "Which appears first, the {a} or the {b}?",
    "What was shown first, the {a} or the {b}?",
    "Which card came first, the {a} or the {b}?",
    "What do we see first, the {a} or the {b}?",
)
CANDIDATES = {"shape": SHAPES, "colour": tuple(COLOURS), "digit": DIGITS, "direction": DIRECTIONS}


@dataclass(frozen=True)
class Question:
    """One question and its truth; start_s and end_s bound the event that answers it (for `first`: the card that came
    first)."""

    kind: str
    question: str
    answer: str
    start_s: float
    end_s: float


def sample_questions(video: SyntheticVideo, per_kind: int = 1) -> list[Question]:
    """`per_kind` differently drawn questions of every kind, in the order of QUESTION_KINDS; a function of the video
    alone."""
    rng = np.random.default_rng([video.seed, video.index, 977])
    return [draw_question(rng, kind, video.events) for kind in QUESTION_KINDS for _ in range(per_kind)]


def draw_question(rng: np.random.Generator, kind: str, events: tuple[Event, ...]) -> Question:
    """A question of the kind about one of the events (or two, for `first`), in a random wording.

    Raises ValueError for an unknown kind, or where the events cannot answer it.
    """
    if kind not in QUESTION_KINDS:
        raise ValueError(f"question kind {kind!r}: one of {', '.join(QUESTION_KINDS)} (data/synthetic_questions.py).")
    if kind == "first":
        return _draw_first(rng, events)
    asked = {
        "shape": ("shape_card",),
        "digit": ("digit_card",),
        "direction": ("mover",),
        "colour": ("shape_card", "digit_card"),
        "when": ("shape_card", "digit_card", "shape_card", "digit_card", "mover"),
    }[kind]
    present = [name for name in asked if any(event.kind == name for event in events)]
    if not present:
        raise ValueError(f"no event answers a question of kind {kind!r}: one of {asked} is needed.")
    event_kind = present[rng.integers(len(present))]
    same_kind = [event for event in events if event.kind == event_kind]
    glyphs, colours = [event.glyph for event in same_kind], [event.colour for event in same_kind]
    alone = [event for event in same_kind if glyphs.count(event.glyph) == colours.count(event.colour) == 1]
    if not alone:
        raise ValueError(
            f"every {event_kind} looks like another one: none can be named in a question of kind {kind!r}."
        )
    event = alone[rng.integers(len(alone))]
    templates = {
        "shape": SHAPE_TEMPLATES,
        "digit": DIGIT_TEMPLATES,
        "direction": DIRECTION_TEMPLATES,
        "colour": COLOUR_TEMPLATES.get(event_kind, ()),
        "when": WHEN_TEMPLATES[event_kind],
    }[kind]
    if len(same_kind) > 1:
        templates = tuple(text for text in templates if "{" in text)
    text = templates[rng.integers(len(templates))]
    text = text.format(shape=event.glyph, digit=event.glyph, colour=event.colour)
    answer = {
        "shape": event.glyph,
        "digit": event.glyph,
        "direction": event.direction,
        "colour": event.colour,
        "when": WHEN_ANSWER.format(event.start_s),
    }[kind]
    return Question(kind, _vary(rng, text), answer, event.start_s, event.end_s)


def _draw_first(rng: np.random.Generator, events: tuple[Event, ...]) -> Question:
    cards = {name: [event for event in events if event.kind == name] for name in ("shape_card", "digit_card")}
    if not all(cards.values()):
        raise ValueError("a question of kind 'first' needs a shape card and a digit card.")
    pair = [found[rng.integers(len(found))] for found in cards.values()]
    alone = all(len(found) == 1 for found in cards.values())
    naming = rng.integers(0 if alone else 1, 4)
    if naming == 0:
        names = ["shape", "digit"]
    elif naming == 1:
        names = [f"{event.colour} card" for event in pair]
    else:
        names = [event.glyph for event in pair]
    order = rng.permutation(2)
    text = FIRST_TEMPLATES[rng.integers(len(FIRST_TEMPLATES))].format(a=names[order[0]], b=names[order[1]])
    first = int(pair[1].start_s < pair[0].start_s)
    return Question("first", _vary(rng, text), f"the {names[first]}", pair[first].start_s, pair[first].end_s)


def _vary(rng: np.random.Generator, text: str) -> str:
    """Small liberties of a person who types: spelling, capitals, the question mark."""
    spelling, capitals, mark = rng.random(3)
    if spelling < 0.3:
        text = text.replace("colour", "color")
    if capitals < 0.15:
        text = text[0].lower() + text[1:]
    if mark < 0.15:
        text = text.rstrip("?.")
    return text


def score_answer(kind: str, answer: str, truth: str, group_duration_s: float = 4.0) -> bool:
    """Whether a generated answer is right.

    `when`: the first number in the answer lies within group_duration_s + 0.5 s of the first number in the truth.
    Other kinds: of all the words that could answer, the answer holds exactly the true one (for `first`: the named
    thing and no other).
    Raises ValueError for an unknown kind.
    """
    if kind not in QUESTION_KINDS:
        raise ValueError(f"question kind {kind!r}: one of {', '.join(QUESTION_KINDS)} (data/synthetic_questions.py).")
    if kind == "when":
        given, true = (re.search(r"\d+(?:\.\d+)?", text) for text in (answer, truth))
        if given is None or true is None:
            return False
        return abs(float(given[0]) - float(true[0])) <= group_duration_s + 0.5
    words, true_words = (set(re.findall(r"[a-z]+|\d+", text.lower())) for text in (answer, truth))
    if kind == "first":
        candidates = {*SHAPES, *COLOURS, *DIGITS, "shape", "digit"}
        return words & candidates == true_words & candidates
    return words & set(CANDIDATES[kind]) == true_words
