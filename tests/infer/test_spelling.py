"""Tokens to texts: rows apart from each other, ended rows silent. How characters grow is tested with answers."""

import numpy as np

from vxlpro_jax.infer.spelling import Speller


class Letters:
    def encode(self, text):
        return [ord(letter) for letter in text]

    def decode(self, ids, skip_special_tokens=True):
        return "".join(map(chr, ids))


def test_rows_grow_by_themselves():
    shown = []
    speller = Speller(Letters(), 3, lambda row, text: shown.append((row, text)))
    for step in ("ab", "c-", " ?"):
        speller.add(np.array([-1 if letter == "-" else ord(letter) for letter in step]), first_row=1)
    assert speller.tokens == [[], [ord("a"), ord("c"), ord(" ")], [ord("b"), ord("?")]]
    assert shown == [(1, "a"), (2, "b"), (1, "c"), (2, "?")]
    assert speller.texts() == ["", "ac", "b?"] and len(shown) == 4


def test_nobody_has_to_watch():
    speller = Speller(Letters(), 1, None)
    speller.add(np.array([ord("x")]))
    assert speller.texts() == ["x"]
