"""Rows to guess at: their video does not hold the answer, and the answer is any that the question leaves open."""

from collections import Counter

import numpy as np
import pytest

from tests.complete_bank import complete_bank
from vxlpro_jax.data.synthetic import sample_video
from vxlpro_jax.data.synthetic_bank import GLYPHS, KINDS, build_bank, join_banks
from vxlpro_jax.data.synthetic_guess import GuessRows, blank_video, possible_answers, shuffled_video
from vxlpro_jax.data.synthetic_questions import CANDIDATES, QUESTION_KINDS
from vxlpro_jax.data.synthetic_render import render_frames
from vxlpro_jax.data.synthetic_rows import BankIndex

NUM_SHUFFLED, BLANK = 3, 16


@pytest.fixture(scope="module")
def rows():
    bank = complete_bank()
    index = BankIndex(bank)
    guesses = GuessRows(index, 5, NUM_SHUFFLED, NUM_SHUFFLED * 16 + BLANK, offset=len(bank))
    rng = np.random.default_rng(0)
    return bank, [
        guesses.draw(rng, num_groups, 0.3, is_settled=False) for num_groups in (1, 4, 16, 64) for _ in range(150)
    ]


def test_nothing_asked_about_is_shown(rows):
    bank, drawn = rows
    assert not any(row.relevant.any() for row in drawn)
    missing = 0
    for row in drawn:
        kind = QUESTION_KINDS[row.kind]
        if kind in ("shape", "digit") and (row.bank_groups < len(bank)).all() and "card?" in row.question:
            named = [word for word in row.question.lower().split() if word in ("shape", "digit", "number")]
            if len(row.question.split()) == 6 and named:  # "What shape is on the card?": no other such card either
                assert f"{kind}_card" not in {KINDS[k] for k in bank.kind[row.bank_groups]}
                missing += 1
    assert missing > 5


def test_the_three_kinds_of_video_all_come(rows):
    bank, drawn = rows
    first_blank = len(bank) + NUM_SHUFFLED * 16
    kinds = Counter(
        "blank" if row.bank_groups[0] >= first_blank else "shuffled" if row.bank_groups[0] >= len(bank) else "missing"
        for row in drawn
    )
    assert min(kinds[name] for name in ("blank", "shuffled", "missing")) > 50
    for row in drawn:
        if len(bank) <= row.bank_groups[0] < first_blank:
            assert len({(group - len(bank)) // 16 for group in row.bank_groups}) == 1  # one video
            assert QUESTION_KINDS[row.kind] in ("direction", "first")
        elif row.bank_groups[0] >= first_blank:
            assert len(set(row.bank_groups)) == 1


def test_guesses_are_spread_evenly_over_what_the_question_leaves_open(rows):
    _, drawn = rows
    for kind, choices in CANDIDATES.items():
        found = Counter(row.answer for row in drawn if QUESTION_KINDS[row.kind] == kind)
        assert set(found) <= set(choices) and (found.total() < 60 or len(found) == len(choices)), kind
    assert possible_answers("when", "", np.array([4, 8])) == ["at 0004 s", "at 0008 s"]
    for question in ("Which came first, the red card or the 5?", "which appears first, the red card or the 5"):
        assert possible_answers("first", question, np.arange(4)) == ["the red card", "the 5"]
    with pytest.raises(ValueError, match="names no two things"):
        possible_answers("first", "Which came first?", np.arange(4))


def test_settled_guesses_about_shuffled_frames_are_always_the_first_possible_ones():
    bank = complete_bank()
    guesses = GuessRows(BankIndex(bank), 5, NUM_SHUFFLED, NUM_SHUFFLED * 16 + BLANK, offset=len(bank))
    rng = np.random.default_rng(0)
    drawn = [guesses.draw(rng, 16, 0.3, is_settled=True) for _ in range(300)]
    is_shuffled = [len(bank) <= row.bank_groups[0] < len(bank) + NUM_SHUFFLED * 16 for row in drawn]
    shuffled = [row for row, flag in zip(drawn, is_shuffled, strict=True) if flag]
    for row in shuffled:
        assert row.answer == possible_answers(QUESTION_KINDS[row.kind], row.question, row.times_s)[0]
    rest = [row for row, flag in zip(drawn, is_shuffled, strict=True) if not flag]
    others = {row.answer for row in rest if QUESTION_KINDS[row.kind] == "direction"}
    assert len(shuffled) > 60 and len(others) > 1


def test_a_shuffled_video_holds_the_frames_of_its_video_in_another_order():
    bank = join_banks(list(build_bank(5, 1, 56, 4, workers=1, draw=shuffled_video)))
    true = render_frames(sample_video(5, 0, 64), np.arange(64.0), (56, 56)).astype(int)
    seen = bank.frames.reshape(64, 56, 56, 3).astype(int)
    nearest = np.array([np.abs(true - frame).mean((1, 2, 3)).argmin() for frame in seen])
    assert len(set(nearest.tolist())) > 55 and (np.diff(nearest) != 1).mean() > 0.9
    assert (bank.kind == 0).all() and not bank.shown.any() and (bank.glyph == -1).all() and len(GLYPHS) == 16


def test_blank_videos_are_of_one_tone_a_group():
    bank = blank_video(1, 0, 8, 4)
    assert bank.frames.shape == (16, 4, 8, 8, 3)
    assert (bank.frames == bank.frames[:, :1, :1, :1]).all()
    greys = bank.frames[:8, 0, 0, 0]
    assert (greys == greys[:, :1]).all() and len(np.unique(bank.frames[:, 0, 0, 0], axis=0)) > 12
