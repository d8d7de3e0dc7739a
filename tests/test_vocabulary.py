"""Ids of the markers come from the tokenizer, once, or not at all."""

import pytest

from vxlpro_jax.vocabulary import END_OF_TEXT, IM_END, TokenIds


def test_ids_are_looked_up():
    assert TokenIds.of(lambda text: [{IM_END: 7, END_OF_TEXT: 3}[text]]) == TokenIds(im_end=7, end_of_text=3)


@pytest.mark.parametrize("lacking", [IM_END, END_OF_TEXT])
def test_a_tokenizer_without_the_markers_raises(lacking):
    with pytest.raises(ValueError, match=f"no special token '{lacking}'".replace("|", r"\|")):
        TokenIds.of(lambda text: [1, 2, 3] if text == lacking else [9])
