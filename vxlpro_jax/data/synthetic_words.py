"""What the groups of a bank show, in words: what the LLM learns to read before it meets visual tokens.

Source: ours (docs/tiny.md).
"""

from collections.abc import Callable

import numpy as np

from vxlpro_jax.data.synthetic_bank import (
    COLOUR_NAMES,
    DIRECTIONS,
    GLYPHS,
    GROUPS_PER_VIDEO,
    KINDS,
    MIN_FRAMES_OF_MOTION,
    GroupBank,
)

WORDS_PER_GROUP = 4
NO_WORD = -1
TEXTURE_SIGNS = "!#$%&*+/<=>@^|~"  # two of them name the texture of a group without an event


def group_words(bank: GroupBank, encode: Callable[[str], list[int]]) -> np.ndarray:
    """int32 [G, WORDS_PER_GROUP]: token ids of the words for each group, NO_WORD where there are fewer.

    A card has its kind, glyph and colour, a mover its direction too, if it can be seen; a group without an event has
    signs that stand for the texture of its video.
    """
    words = np.full((len(bank), WORDS_PER_GROUP), NO_WORD, np.int32)
    for group in range(len(bank)):
        texts = _texts(bank, group)
        words[group, : len(texts)] = [_one_token(encode(text), text) for text in texts]
    return words


def _texts(bank: GroupBank, group: int) -> list[str]:
    kind = KINDS[bank.kind[group]]
    if kind == "none":
        rng = np.random.default_rng(group // GROUPS_PER_VIDEO)
        return list(rng.choice(list(TEXTURE_SIGNS), 2, replace=False))
    if kind == "blank_card":
        return [" card"]
    glyph = GLYPHS[bank.glyph[group]]
    texts = [
        " move" if kind == "mover" else " card",
        glyph if kind == "digit_card" else f" {glyph}",
        f" {COLOUR_NAMES[bank.colour[group]]}",
    ]
    if kind == "mover" and bank.shown[group].sum() >= MIN_FRAMES_OF_MOTION:
        texts.append(f" {DIRECTIONS[bank.direction[group]]}")
    return texts


def _one_token(ids: list[int], text: str) -> int:
    if len(ids) != 1:
        raise ValueError(f"{text!r} is {len(ids)} tokens: a word of the generated world is one (data/tokenizer.py).")
    return ids[0]
