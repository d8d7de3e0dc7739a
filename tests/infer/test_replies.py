"""Long prompts, answered in turn and in pieces, get the replies of one batch."""

import pytest

from tests.infer.askable import WORDS, askable, random_index
from vxlpro_jax.infer import reading, replies

QUESTIONS = [WORDS, "When?", "Which card appeared first, the red circle or the blue star, and where did it go then?"]


@pytest.fixture
def short_pieces(monkeypatch):
    """Prompts of a hundred rows are long."""
    monkeypatch.setattr(reading, "PIECE_LEN", 32)
    monkeypatch.setattr(reading, "SHORTEST_PIECE", 8)
    monkeypatch.setattr(replies, "PIECE_LEN", 32)


def test_long_prompts_are_answered_as_short_ones(short_pieces, monkeypatch):
    """The same texts, evidence and counts, whether read at once or in pieces."""
    index, model = random_index(12), askable()
    options = {"max_new_tokens": 5, "temperature": 3.0, "seed": 3}
    in_turn = model.ask(index, QUESTIONS, **options)
    monkeypatch.setattr(replies, "PIECE_LEN", 10**6)
    together = model.ask(index, QUESTIONS, **options)
    monkeypatch.undo()
    assert len({one.text for one in together}) > 1
    for one, other in zip(in_turn, together, strict=True):
        assert (one.text, one.num_tokens, one.num_kept) == (other.text, other.num_tokens, other.num_kept)
        assert [span[:2] for span in one.evidence] == [span[:2] for span in other.evidence]
        assert one.timings.keys() == other.timings.keys() and one.timings["num_steps"] > 0


def test_streaming_in_turn(short_pieces):
    pieces = ["", "", ""]

    def show(row: int, text: str) -> None:
        pieces[row] += text

    answers = askable().ask(random_index(12), QUESTIONS, max_new_tokens=5, on_text=show)
    assert pieces == [one.text for one in answers]
