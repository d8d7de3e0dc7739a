"""Answers that are no answers are seen; short honest ones are not taken for them."""

import pytest

from vxlpro_jax.eval.answer_faults import EMPTY, OTHER_KIND, REPEATED, answer_fault, ends_in_a_loop


@pytest.mark.parametrize(
    ("kind", "text", "fault"),
    [
        ("shape", "", EMPTY),
        ("shape", " . ", EMPTY),
        ("shape", "!!!!!!!!!!!!!!", REPEATED),
        ("shape", "a star star star star", REPEATED),
        ("", "it is the man in the man in the man in the man in the", REPEATED),
        ("shape", "red", OTHER_KIND),
        ("when", "soon", OTHER_KIND),
        ("direction", "the star", OTHER_KIND),
        ("shape", "star", ""),
        ("shape", "a star, no other star", ""),
        ("digit", "7", ""),
        ("colour", "It is red.", ""),
        ("when", "at 0012 s", ""),
        ("when", "at 10000000 s", ""),
        ("", "A man walks, walks and walks.", ""),
    ],
)
def test_faults(kind: str, text: str, fault: str) -> None:
    assert answer_fault(kind, text) == fault


def test_a_loop_is_seen_wherever_its_last_round_is_cut() -> None:
    words = ["so", "then", *["one", "two", "three"] * 5]
    assert all(ends_in_a_loop(words[:end]) for end in range(2 + 12, len(words) + 1))
    assert not any(ends_in_a_loop(words[:end]) for end in range(2 + 9))
