"""Loading: a folder of either layout gives a model that asks the same, and what cannot be loaded is named."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.infer.askable import CONFIG, WORDS, askable, random_index
from vxlpro_jax import loading
from vxlpro_jax.convert import ConversionError, save_params_as
from vxlpro_jax.data.tokenizer import save_tiny_tokenizer
from vxlpro_jax.loading import EMBEDDED, load
from vxlpro_jax.models.presets import TINY


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_tiny_tokenizer(root / "tokenizer")
    params = jax.tree.map(np.asarray, askable().params)
    for to in ("torch", "orbax"):
        save_params_as(root / to, CONFIG, params, to, tokenizer_folder=root / "tokenizer")
    return root


@pytest.mark.parametrize("layout", ["torch", "orbax"])
def test_either_layout(folder, layout):
    model = load(str(folder / layout), dtype="float32")
    assert model.config == CONFIG
    assert model.fingerprint == askable().fingerprint
    index = random_index(3)
    assert model.ask(index, WORDS, max_new_tokens=4).text == askable().ask(index, WORDS, max_new_tokens=4).text


def test_the_embedded_model():
    model = load()
    assert model.config == TINY
    assert sum(file.stat().st_size for file in EMBEDDED.iterdir()) <= 10e6


def test_on_an_accelerator_its_kernels_are_tried_first(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(loading, "usable_kind", lambda *given: asked.append(given) or "xla")
    model = load(folder / "torch", dtype="bfloat16", attention="kernel")
    assert asked == [("kernel", CONFIG, "bfloat16")] and model.model.attention == "xla"


def test_working_type(folder):
    assert {leaf.dtype.name for leaf in jax.tree.leaves(load(folder / "torch").params)} == {"float32"}  # on CPU
    half = load(folder / "torch", dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half.params)} == {"bfloat16"}
    assert half.model.dtype == "bfloat16"
    with pytest.raises(ValueError, match="another encoder.*in this dtype"):
        half.ask(random_index(3), WORDS)
    answer = half.ask(random_index(3, model=half), WORDS, max_new_tokens=4)
    assert np.isfinite([span.score for span in answer.evidence]).all()
    with pytest.raises(ValueError, match="dtype 'int8': one of"):
        load(folder / "torch", dtype="int8")


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder / "torch", tmp_path / "copy"))


def test_no_tokenizer(copy):
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="holds no tokenizer"):
        load(copy)


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"model": {}}', '{"version": "1.0", "model": 7}'])
def test_broken_tokenizer(copy, text):
    (copy / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match="tokenizer"):
        load(copy)


def test_tokenizer_without_chat_markers(copy):
    tokens = json.loads((copy / "tokenizer.json").read_text())
    tokens["added_tokens"] = []
    (copy / "tokenizer.json").write_text(json.dumps(tokens))
    with pytest.raises(ValueError, match="no special token '<.im_end.>'"):
        load(copy)


def test_what_is_no_model(tmp_path, copy):
    (tmp_path / "file").write_text("text")
    for source in (tmp_path, tmp_path / "file", tmp_path / "nothing" / "here"):
        with pytest.raises(ConversionError):
            load(source)
    shard = next(copy.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ConversionError, match=shard.name):
        load(copy)
