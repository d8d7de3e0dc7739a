"""Tokens that arrive one by one, as texts that only grow.

Source: ours.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np


class TextCodec(Protocol):
    """What answering needs of a tokenizer."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...


class Speller:
    """The tokens of several rows, and on_text(row, new text) called for what is certain of their texts."""

    def __init__(self, tokenizer: TextCodec, num_rows: int, on_text: Callable[[int, str], None] | None):
        self.tokens: list[list[int]] = [[] for _ in range(num_rows)]
        self._tokenizer = tokenizer
        self._on_text = on_text
        self._shown = [""] * num_rows

    def add(self, ids: np.ndarray, first_row: int = 0) -> None:
        """One token for each row from first_row on; -1 for rows that have ended."""
        for row in np.flatnonzero(ids >= 0).tolist():
            tokens = self.tokens[first_row + row]
            tokens.append(int(ids[row]))
            if self._on_text:
                # A character cut in the middle, and space that may yet turn out to be at the end, wait.
                self._show(first_row + row, self._tokenizer.decode(tokens).rstrip("\ufffd").strip())

    def texts(self) -> list[str]:
        """The whole texts, when nothing more comes."""
        found = [self._tokenizer.decode(ids).strip() for ids in self.tokens]
        for row, text in enumerate(found):
            self._show(row, text)
        return found

    def _show(self, row: int, text: str) -> None:
        shown = self._shown[row]
        if self._on_text and len(text) > len(shown):
            self._shown[row] = text
            self._on_text(row, text[len(shown) :])
