"""Held-out questions: what cannot be asked is passed over or told, and never ends a run."""

import json
import math
from types import SimpleNamespace

import pytest

from launch import heldout_answers
from launch.heldout_answers import Asked, answer_records, draw_records
from vxlpro_jax.config import HeldoutConfig
from vxlpro_jax.data.batch_plan import Limits, measure
from vxlpro_jax.data.mixture import load_mixture
from vxlpro_jax.data.video_facts import MediaFacts
from vxlpro_jax.data.video_records import VideoError

CONFIG = HeldoutConfig(num_batches=1, num_answers=9, max_frames=8, max_new_tokens=4)


def turns(question):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": "Yes."}]


def test_only_questions_about_usable_videos_are_drawn(tmp_path):
    records = [
        {"video": "good.mp4", "conversations": turns("<video>\nIs it?")},
        {"video": "good.mp4", "conversations": "none"},
        {"video": "good.mp4", "conversations": turns("<video>\n")},
        {"video": "broken.mp4", "conversations": turns("<video>\nIs it?")},
        {"conversations": turns("Is it?")},
    ]
    (tmp_path / "held.jsonl").write_text("\n".join(map(json.dumps, records)))
    mixture = load_mixture(tmp_path / "held.jsonl", 0)
    fine = MediaFacts(8, 7.0, 8.0, 56, 56, False, 0, "", 0, 0)
    facts = {str(tmp_path / "good.mp4"): fine, str(tmp_path / "broken.mp4"): fine._replace(fault="no video")}
    sizes, _ = measure(mixture, facts, 56, Limits(1, 8, False, True))
    for seed in range(3):
        drawn = draw_records(mixture, sizes.is_usable, 9, seed)
        assert drawn == [Asked(str(tmp_path / "good.mp4"), "Is it?", "Yes.")]


@pytest.fixture
def fake_model(monkeypatch):
    """Answers "yes."; a video "bad" cannot be decoded, and to "Why?" no token is finite."""

    def index(video, max_frames):
        if video == "bad":
            raise VideoError("bad", "no frame can be decoded")
        return video

    def ask(index, question, max_new_tokens):
        if question == "Why?":
            raise FloatingPointError("logits are not finite")
        return SimpleNamespace(text=" yes.")

    monkeypatch.setattr(heldout_answers, "VideoXLPro", lambda *parts: SimpleNamespace(index=index, ask=ask))


def answers(*asked):
    return answer_records(None, {}, None, "float32", asked, CONFIG)


def test_what_cannot_be_answered_is_told_and_counts_for_nothing(fake_model):
    found = answers(
        *(Asked("good", "Is it?", "Yes."), Asked("bad", "Is it?", "Yes."), Asked("good", "Why?", "So.")),
        Asked("good", "What?", "It."),
    )
    assert found["right_answers"] == 0.5
    assert found["answers"].splitlines() == [
        "= Is it? | truth: Yes. | answer:  yes.",
        "? Is it? | truth: Yes. | cannot be answered: bad: no frame can be decoded",
        "? Why? | truth: So. | cannot be answered: logits are not finite",
        "x What? | truth: It. | answer:  yes.",
        "2 of 4 questions cannot be answered",
    ]


def test_where_nothing_can_be_answered_there_is_no_share(fake_model):
    assert math.isnan(answers(Asked("bad", "Is it?", "Yes."))["right_answers"])
