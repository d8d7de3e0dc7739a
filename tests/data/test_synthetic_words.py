"""Groups in words: the words are what the labels say, and each is one token of the embedded tokenizer."""

import numpy as np
import pytest

from tests.complete_bank import complete_bank
from vxlpro_jax.data.synthetic import DIRECTIONS
from vxlpro_jax.data.synthetic_bank import COLOUR_NAMES, GLYPHS, KINDS
from vxlpro_jax.data.synthetic_words import NO_WORD, WORDS_PER_GROUP, group_words
from vxlpro_jax.data.tokenizer import TextTokenizer, build_tiny_tokenizer


def test_words_name_what_the_labels_say():
    bank, tokenizer = complete_bank(), TextTokenizer(build_tiny_tokenizer())
    words = group_words(bank, tokenizer.encode)
    assert words.shape == (len(bank), WORDS_PER_GROUP) and words.dtype == np.int32
    for group in range(0, len(bank), 7):
        said = {tokenizer.decode([word]).strip() for word in words[group] if word != NO_WORD}
        kind = KINDS[bank.kind[group]]
        if kind == "none":
            assert len(said) == 2 and not any(word.isalnum() for word in said)
        elif kind == "blank_card":
            assert said == {"card"}
        else:
            expected = {"move" if kind == "mover" else "card", GLYPHS[bank.glyph[group]]}
            expected |= {COLOUR_NAMES[bank.colour[group]]}
            if kind == "mover" and bank.shown[group].sum() >= 2:
                expected |= {DIRECTIONS[bank.direction[group]]}
            assert said == expected


def test_a_word_of_several_tokens_is_refused():
    with pytest.raises(ValueError, match="is 2 tokens"):
        group_words(complete_bank(), lambda text: [1, 2])
