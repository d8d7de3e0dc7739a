"""Questions about the generated world: answerable, true, and marked by what they say."""

import numpy as np
import pytest

from vxlpro_jax.data.synthetic import WORLDS, sample_video
from vxlpro_jax.data.synthetic_questions import QUESTION_KINDS, draw_question, sample_questions, score_answer


@pytest.mark.parametrize("world", WORLDS)
def test_answers_are_those_of_the_event_at_the_given_time(world):
    for index in range(60):
        video = sample_video(9, index, world=world)
        for question in sample_questions(video, per_kind=2):
            event = next(event for event in video.events if event.start_s == question.start_s)
            assert question.end_s == event.end_s
            if question.kind in ("shape", "digit"):
                assert (question.answer, event.kind) == (event.glyph, f"{question.kind}_card")
            elif question.kind == "colour":
                assert question.answer == event.colour and event.kind in ("shape_card", "digit_card")
            elif question.kind == "direction":
                assert (question.answer, event.kind) == (event.direction, "mover")
            elif question.kind == "when":
                assert question.answer == f"at {int(event.start_s):04d} s"
            else:
                assert question.answer.split()[1] in (event.glyph, event.colour, event.kind.split("_")[0])
                others = [e for e in video.events if e.kind in ("shape_card", "digit_card")]
                named = [e for e in others if {e.glyph, e.colour} & set(question.question.rstrip("?").split())]
                assert event.start_s == min(e.start_s for e in (named if len(named) == 2 else others))


def test_a_question_names_what_would_be_ambiguous():
    for index in range(80):
        video = sample_video(4, index, world="busy")
        for question in sample_questions(video, per_kind=3):
            event = next(event for event in video.events if event.start_s == question.start_s)
            words = set(question.question.rstrip("?.").split())
            assert {event.glyph, event.colour} & words, question.question


def test_questions_of_a_video_are_the_same_each_time_and_differ_in_wording():
    video = sample_video(1, 1)
    assert sample_questions(video, 3) == sample_questions(video, 3)
    assert [q.kind for q in sample_questions(video, 2)] == [kind for kind in QUESTION_KINDS for _ in range(2)]
    wordings = {q.question for i in range(100) for q in sample_questions(sample_video(1, i)) if q.kind == "shape"}
    assert len(wordings) > 10


def test_order_questions_do_not_give_the_answer_away():
    """Neither the thing named first nor the shape is right more often than by chance."""
    named_first, shape_right = [], []
    for index in range(800):
        video = sample_video(8, index)
        question = draw_question(np.random.default_rng(index), "first", video.events)
        words = question.question.rstrip("?").split()
        thing = question.answer.split()[1]
        named_first.append(words.index(thing) < words.index("or"))
        shape_right.append(next(e for e in video.events if e.kind in ("shape_card", "digit_card")).kind == "shape_card")
    assert abs(np.mean(named_first) - 0.5) < 0.07 and abs(np.mean(shape_right) - 0.5) < 0.07


@pytest.mark.parametrize(
    ("kind", "answer", "truth", "right"),
    [
        ("shape", "circle", "circle", True),
        ("shape", "It is a Circle.", "circle", True),
        ("shape", "circle or square", "circle", False),
        ("shape", "", "circle", False),
        ("digit", "7", "7", True),
        ("digit", "77", "7", False),
        ("colour", "dark red", "red", True),
        ("colour", "redish", "red", False),
        ("direction", "to the left", "left", True),
        ("when", "at 0012 s", "at 0016 s", True),
        ("when", "at 0012 s", "at 0017 s", False),
        ("when", "12.5", "at 0017 s", True),
        ("when", "soon", "at 0017 s", False),
        ("first", "the circle", "the circle", True),
        ("first", "the 7", "the circle", False),
        ("first", "the circle, not the 7", "the circle", False),
        ("first", "the shape", "the shape", True),
    ],
)
def test_marking(kind, answer, truth, right):
    assert score_answer(kind, answer, truth) is right


def test_the_tolerance_of_times_follows_the_group():
    assert score_answer("when", "at 0000 s", "at 0008 s", group_duration_s=8.0)
    assert not score_answer("when", "at 0000 s", "at 0008 s", group_duration_s=4.0)


def test_unknown_kinds_and_missing_events_are_named():
    with pytest.raises(ValueError, match="'why': one of shape"):
        score_answer("why", "a", "b")
    with pytest.raises(ValueError, match="'why': one of shape"):
        draw_question(np.random.default_rng(0), "why", ())
    for kind in QUESTION_KINDS:
        with pytest.raises(ValueError, match=f"'{kind}'"):
            draw_question(np.random.default_rng(0), kind, ())
