"""Names of special tokens and chat markers; their ids are looked up once, at the door.

Source: SPEC 12 (quirk 11) and 13 (template qwen_1_5).
"""

from collections.abc import Callable
from typing import NamedTuple

END_OF_TEXT = "<|endoftext|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
SYSTEM_PROMPT = "You are a helpful assistant."
VIDEO_TAG = "<image>"
"""Where a video or picture goes in a written conversation (the released data format says image for both)."""

Tokenize = Callable[[str], list[int]]
"""Text to token ids; special tokens written in the text become their ids."""


class TokenIds(NamedTuple):
    """Ids that generation must know. Generation stops at im_end and end_of_text."""

    im_end: int
    end_of_text: int

    @classmethod
    def of(cls, tokenize: Tokenize) -> "TokenIds":
        """Looks the ids up. Raises ValueError when the tokenizer lacks one of the markers."""
        found = []
        for name in (IM_END, END_OF_TEXT):
            ids = tokenize(name)
            if len(ids) != 1:
                raise ValueError(f"the tokenizer has no special token {name!r}: a Qwen2.5 tokenizer is needed")
            found.append(ids[0])
        return cls(*found)
