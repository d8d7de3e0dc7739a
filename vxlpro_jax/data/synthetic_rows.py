"""Rows for training on answers: videos composed from groups of a bank, each with one question about them.

Source: ours (docs/tiny.md). Groups do not interact before the selector, so a video may be put together from groups
that were rendered
apart: an event of the wanted looks, visible in the wanted frames of its group, in a haystack of event-free groups.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from vxlpro_jax.data.synthetic import COLOURS, DIGITS, DIRECTIONS, SHAPES, Event, EventKind, draw_duration_s
from vxlpro_jax.data.synthetic_bank import COLOUR_NAMES, GLYPHS, GROUPS_PER_VIDEO, KINDS, GroupBank
from vxlpro_jax.data.synthetic_questions import QUESTION_KINDS, WHEN_ANSWER, draw_question

# How often each kind of question is drawn among those that are not about a time; which came first is learnt late.
KIND_WEIGHTS = {"shape": 0.16, "colour": 0.22, "digit": 0.17, "direction": 0.17, "first": 0.28}
NEEDS = {
    "shape": ("shape_card",),
    "digit": ("digit_card",),
    "direction": ("mover",),
    "first": ("shape_card", "digit_card"),
}
EXTRA_EVENT_SHARE = 0.15  # rows with a second event of a kind that is asked about, which the question then has to name
BLANK_CARD_SHARE = 0.1
GROUP_STEPS_S = (4, 4, 4, 4, 4, 4, 2, 1, 8, 16)  # seconds from group to group: 4 at one frame per second
MAX_TIME_S = 9999


@dataclass(frozen=True)
class ComposedRow:
    """bank_groups int [G]: which group of the bank stands at each place; times_s int [G]: of the groups' first
    frames; relevant bool [G]: True where the group shows what the question asks about; kind: index into
    QUESTION_KINDS."""

    bank_groups: np.ndarray
    times_s: np.ndarray
    relevant: np.ndarray
    question: str
    answer: str
    kind: int


@dataclass
class _Placed:
    """An event and the places that show it: (group, first visible frame, last visible frame)."""

    event: Event
    spans: list[tuple[int, int, int]]


class BankIndex:
    """Finds groups of a bank by what they show and in which of their frames."""

    def __init__(self, bank: GroupBank, textures: range = range(0)):
        """textures: numbers of groups outside of the bank that show no event either."""
        self.frames_per_group = bank.shown.shape[1]
        first = bank.shown.argmax(1)
        last = self.frames_per_group - 1 - bank.shown[:, ::-1].argmax(1)
        exact: dict[tuple, list[int]] = defaultdict(list)
        looks: dict[tuple, list[int]] = defaultdict(list)
        for group in np.flatnonzero(bank.kind > 0).tolist():
            key = (KINDS[bank.kind[group]], int(bank.glyph[group]), int(bank.colour[group]), int(bank.direction[group]))
            exact[(*key, int(first[group]), int(last[group]))].append(group)
            if key[0] != "mover" or last[group] > first[group]:
                looks[key].append(group)
                looks[(key[0], key[3])].append(group)
        self._exact = {key: np.array(groups) for key, groups in exact.items()}
        self._looks = {key: np.array(groups) for key, groups in looks.items()}
        empty = np.flatnonzero(bank.kind == 0)
        self.empty_by_video = np.split(empty, np.flatnonzero(np.diff(empty // GROUPS_PER_VIDEO)) + 1)
        self.empty = np.concatenate([empty, np.array(textures, int)])

    def find(self, rng: np.random.Generator, event: Event, first: int, last: int) -> int:
        """A group that shows the event's looks in frames first..last; where the bank has none, in other frames, and
        for a mover at last one of other looks that goes the same way.
        """
        glyph = GLYPHS.index(event.glyph) if event.glyph else -1
        colour = COLOUR_NAMES.index(event.colour) if event.glyph else -1
        direction = DIRECTIONS.index(event.direction) if event.direction else -1
        key = (event.kind, glyph, colour, direction)
        found = self._exact.get((*key, first, last))
        if found is None:
            found = self._looks.get(key)
        if found is None and event.kind == "mover":
            found = self._looks.get(("mover", direction))
        if found is None:
            raise ValueError(f"the bank has no group with {key}: it is too small (vision.num_videos).")
        return int(found[rng.integers(len(found))])


def compose_row(
    rng: np.random.Generator, index: BankIndex, num_groups: int, when_share: float, shows_asked: bool = True
) -> ComposedRow:
    """A video of num_groups groups with a question about it, with probability when_share one about a time.

    shows_asked: False leaves out the events that the question is about; then no group is relevant, and the answer is
    that of the video which has them.
    """
    kinds = [kind for kind in KIND_WEIGHTS if num_groups > 1 or kind != "first"]
    weights = np.array([KIND_WEIGHTS[kind] for kind in kinds])
    kind = "when" if rng.random() < when_share else kinds[rng.choice(len(kinds), p=weights / weights.sum())]
    placed = _place(rng, _draw_cast(rng, kind, num_groups), num_groups, index.frames_per_group)
    step = int(rng.choice(GROUP_STEPS_S))
    latest = max(MAX_TIME_S - step * num_groups, 1)
    start = 0 if rng.random() < 0.3 else int(rng.integers(0, latest))
    times_s = start + step * np.arange(num_groups)
    question = draw_question(rng, kind, tuple(sorted((item.event for item in placed), key=lambda event: event.start_s)))
    needed = _asked(question.question, question.start_s, kind, placed)
    relevant = np.zeros(num_groups, bool)
    for item in needed if shows_asked else ():
        relevant[[group for group, _, _ in item.spans]] = True
    answer = question.answer
    if kind == "when":
        answer = WHEN_ANSWER.format(times_s[needed[0].spans[0][0]])
    groups = _haystack(rng, index, num_groups)
    for item in placed if shows_asked else [item for item in placed if item not in needed]:
        for group, first, last in item.spans:
            groups[group] = index.find(rng, item.event, first, last)
    return ComposedRow(groups, times_s, relevant, question.question, answer, QUESTION_KINDS.index(kind))


def _haystack(rng: np.random.Generator, index: BankIndex, num_groups: int) -> np.ndarray:
    """Event-free groups: of one texture, of a few, or of all."""
    if rng.random() < 0.4:
        return rng.choice(index.empty, num_groups)
    videos = [index.empty_by_video[i] for i in rng.integers(len(index.empty_by_video), size=rng.integers(1, 4))]
    return rng.choice(np.concatenate(videos), num_groups)


def _draw_cast(rng: np.random.Generator, kind: str, num_groups: int) -> list[EventKind]:
    """Kinds of the events in a row: what the question needs first, then as much of the usual cast as there is room
    for."""
    usual: list[EventKind] = ["shape_card", "digit_card", "mover"]
    if kind in NEEDS:
        cast: list[EventKind] = list(NEEDS[kind])  # type: ignore[arg-type]
    elif kind == "colour":
        cast = [usual[rng.integers(2)]]
    else:
        cast = [usual[rng.choice(3, p=(0.4, 0.4, 0.2))]]
    room = num_groups // 2
    if rng.random() < 0.85:  # else a video with little in it
        others = [name for name in usual if name not in cast]
        cast += [others[i] for i in rng.permutation(len(others))]
    if num_groups >= 4 and rng.random() < EXTRA_EVENT_SHARE:
        cast += [usual[i] for i in rng.integers(0, 3, rng.integers(1, 3))]
    cast = cast[: max(room, len(NEEDS.get(kind, "1")))]
    if num_groups >= 4 and rng.random() < BLANK_CARD_SHARE:
        cast.append("blank_card")
    return cast


def _place(rng: np.random.Generator, cast: list[EventKind], num_groups: int, frames_per_group: int) -> list[_Placed]:
    """Looks and places of the events: uniform over the free groups, no two in one group; the first of the cast always
    fit."""
    colours = rng.permutation(list(COLOURS))
    shapes, digits = list(rng.permutation(SHAPES)), list(rng.permutation(DIGITS))
    free = np.ones(num_groups, bool)
    placed = []
    for kind, colour in zip(cast, colours, strict=False):
        found = _free_window(rng, kind, free, frames_per_group, most=max(1, num_groups // len(cast)))
        if found is None:
            continue
        start, end = found
        glyph = "" if kind == "blank_card" else str(digits.pop() if kind == "digit_card" else shapes.pop())
        direction = DIRECTIONS[rng.integers(len(DIRECTIONS))] if kind == "mover" else ""
        event = Event(kind, float(start), float(end), glyph, str(colour), (0.5, 0.5), 0.5, direction)
        spans = []
        for group in range(start // frames_per_group, (end - 1) // frames_per_group + 1):
            free[group] = False
            base = group * frames_per_group
            spans.append((group, max(start - base, 0), min(end - 1 - base, frames_per_group - 1)))
        placed.append(_Placed(event, spans))
    return placed


def _free_window(
    rng: np.random.Generator, kind: EventKind, free: np.ndarray, frames_per_group: int, most: int
) -> tuple[int, int] | None:
    """First and end frame of a random window of free groups, at most `most` groups wide; None where nothing is free."""
    duration = draw_duration_s(rng, kind)
    starts = np.arange(len(free) * frames_per_group)
    taken = np.concatenate([[0], np.cumsum(~free)])
    while duration >= 1:
        first, last = starts // frames_per_group, (starts + duration - 1) // frames_per_group
        inside = last < len(free)
        fits = np.zeros(len(starts), bool)
        fits[inside] = (taken[last[inside] + 1] == taken[first[inside]]) & (last - first < most)[inside]
        if fits.any():
            start = int(rng.choice(starts[fits]))
            return start, start + duration
        duration -= 1
    return None


def _asked(question: str, start_s: float, kind: str, placed: list[_Placed]) -> list[_Placed]:
    """The events that a question is about: the one that answers it; for `first` both cards that it names."""
    answering = [item for item in placed if item.event.start_s == start_s]
    if kind != "first":
        return answering
    words = set(question.lower().replace("?", "").split())
    cards = [item for item in placed if item.event.kind in ("shape_card", "digit_card")]
    named = [item for item in cards if {item.event.glyph, item.event.colour} & words]
    return named if len(named) == 2 else cards
