"""The embedded tokenizer: what is one token, what comes back, and that transformers reads the same files."""

import json

import pytest

from vxlpro_jax.data.synthetic import sample_video
from vxlpro_jax.data.synthetic_questions import sample_questions
from vxlpro_jax.data.tokenizer import SPECIAL_TOKENS, load_tokenizer, save_tiny_tokenizer
from vxlpro_jax.models.presets import PRESETS
from vxlpro_jax.vocabulary import TokenIds

TEXTS = [
    "When does the red card appear?",
    "naïve 你好 🙂\n\n tabs\tand  spaces ",
    "<|im_start|>user\nhi<|im_end|>",
    "a\u0301",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    save_tiny_tokenizer(path)
    return path


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_comes_back(folder, text):
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text


def test_special_tokens_are_single_ids_and_can_be_left_out(folder):
    tokenizer = load_tokenizer(folder)
    assert all(len(tokenizer.encode(text)) == 1 for text in SPECIAL_TOKENS)
    assert TokenIds.of(tokenizer.encode).im_end == tokenizer.encode("<|im_end|>")[0]
    assert tokenizer.decode(tokenizer.encode("left<|im_end|>")) == "left"
    assert tokenizer.decode([tokenizer.vocab_size + 3]) == ""


def test_times_are_an_anchor_and_two_tokens_of_two_digits(folder):
    tokenizer, stamps = load_tokenizer(folder), PRESETS["tiny"].stamps
    for time in (0, 7, 12, 101, 4040, 9999):
        ids = tokenizer.encode(stamps.text.format(time))
        assert [tokenizer.decode([i]) for i in ids] == ["t", f"{time:04d}"[:2], f"{time:04d}"[2:]]
        assert len(ids) == stamps.num_tokens


def test_every_word_of_the_questions_and_answers_is_one_token(folder):
    tokenizer = load_tokenizer(folder)
    for index in range(150):
        for question in sample_questions(sample_video(3, index)):
            for text in (question.question, question.answer):
                pieces = [tokenizer.decode([i]) for i in tokenizer.encode(text)]
                assert [piece for piece in pieces if piece.strip().isalpha()] == [
                    piece for piece in _words(text) if piece.strip().isalpha()
                ], pieces


def _words(text):
    return [word if i == 0 else f" {word}" for i, word in enumerate(text.replace(",", " ,").rstrip("?.").split(" "))]


def test_the_embedded_model_has_a_row_for_every_id(folder):
    size = load_tokenizer(folder).vocab_size
    assert size <= PRESETS["tiny"].llm.vocab_size < size + 64


def test_transformers_reads_the_same_files(folder):
    from transformers import AutoTokenizer

    theirs, ours = AutoTokenizer.from_pretrained(str(folder)), load_tokenizer(folder)
    for text in TEXTS:
        assert theirs.encode(text, add_special_tokens=False) == ours.encode(text)
    assert (theirs.eos_token, theirs.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert "assistant" in theirs.chat_template


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tokenizer.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="tokenizer.json: not a tokenizer file"):
        load_tokenizer(tmp_path)


def test_vocab_and_merges_are_read_where_there_is_no_tokenizer_json(folder, tmp_path):
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_tokenizer(tmp_path).encode("the red circle") == load_tokenizer(folder).encode("the red circle")
