"""Composed rows: the groups that are chosen show what the question and its answer say."""

import numpy as np
import pytest

from tests.complete_bank import complete_bank
from vxlpro_jax.data.synthetic import DIRECTIONS
from vxlpro_jax.data.synthetic_bank import COLOUR_NAMES, GLYPHS, KINDS, GroupBank
from vxlpro_jax.data.synthetic_questions import QUESTION_KINDS
from vxlpro_jax.data.synthetic_rows import BankIndex, compose_row


@pytest.fixture(scope="module")
def bank():
    return complete_bank()


@pytest.mark.parametrize("num_groups", [1, 2, 4, 16, 64])
def test_relevant_groups_show_the_answer_and_no_others_do(bank, num_groups):
    index, rng = BankIndex(bank), np.random.default_rng(1)
    kinds = set()
    for _ in range(200):
        row = compose_row(rng, index, num_groups, 0.3)
        kind = QUESTION_KINDS[row.kind]
        kinds.add(kind)
        groups = row.bank_groups[row.relevant]
        shown = [KINDS[k] for k in bank.kind[groups]]
        assert len(row.bank_groups) == len(row.times_s) == num_groups and row.relevant.any()
        if kind in ("shape", "digit"):
            assert set(shown) == {f"{kind}_card"} and {GLYPHS[g] for g in bank.glyph[groups]} == {row.answer}
        elif kind == "colour":
            assert {COLOUR_NAMES[c] for c in bank.colour[groups]} == {row.answer}
        elif kind == "direction":
            assert set(shown) == {"mover"} and {DIRECTIONS[d] for d in bank.direction[groups]} == {row.answer}
            assert bank.shown[groups].sum(1).max() >= 2
        elif kind == "when":
            assert row.answer == f"at {row.times_s[row.relevant.argmax()]:04d} s"
        else:
            assert set(shown) == {"shape_card", "digit_card"}
            first = groups[0]
            looks = {GLYPHS[bank.glyph[first]], COLOUR_NAMES[bank.colour[first]], KINDS[bank.kind[first]].split("_")[0]}
            assert row.answer.split()[1] in looks
    assert kinds == set(QUESTION_KINDS) - (set() if num_groups > 1 else {"first"})


def test_an_event_over_several_groups_keeps_its_look_and_its_frames_meet(bank):
    index, rng = BankIndex(bank), np.random.default_rng(2)
    seen = 0
    for _ in range(300):
        row = compose_row(rng, index, 16, 0.3)
        if QUESTION_KINDS[row.kind] == "first":
            continue
        places = np.flatnonzero(row.relevant)
        assert (np.diff(places) == 1).all()
        groups = row.bank_groups[places]
        assert len(set(zip(bank.kind[groups], bank.glyph[groups], bank.colour[groups], strict=True))) == 1
        frames = np.flatnonzero(bank.shown[groups].reshape(-1))
        assert (np.diff(frames) == 1).all()
        seen += len(places) > 1
    assert seen > 50


def test_textures_of_their_own_stand_among_the_empty_groups_of_haystacks(bank):
    textures = range(len(bank), len(bank) + 300)
    index, rng = BankIndex(bank, textures), np.random.default_rng(3)
    mixed = 0
    for _ in range(100):
        row = compose_row(rng, index, 64, 0.3)
        others = np.isin(row.bank_groups, textures)
        assert not others[row.relevant].any()
        assert {KINDS[kind] for kind in bank.kind[row.bank_groups[~others]]} > {"none"}
        mixed += 20 < others.sum() < 64
    assert 20 < mixed < 60  # haystacks of all textures; the others are of few


def test_a_bank_without_the_look_is_named():
    empty = GroupBank(
        np.zeros((2, 4, 1, 1, 3), np.uint8),
        *(np.array([0, 0]) for _ in range(4)),
        np.zeros((2, 4), bool),
        *(np.full((2, 4), -1),) * 2,
    )
    with pytest.raises(ValueError, match="the bank has no group with .* too small"):
        compose_row(np.random.default_rng(0), BankIndex(empty), 4, 0.3)
