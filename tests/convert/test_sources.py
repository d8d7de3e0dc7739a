"""Folders and hub ids, kinds of checkpoints, tokenizers beside them.

Source: ours.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.convert.hub_server import hub_serving
from tests.convert.reference_layout import random_state, released_shapes, tiny_config, write_released
from vxlpro_jax.convert.errors import ConversionError
from vxlpro_jax.convert.sources import check_tokenizer, copy_tokenizer, kind_of, resolve_source


def write_json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize(
    ("model_type", "kind"),
    [("llava_qwen", "released"), ("qwen2", "qwen2"), ("siglip", "siglip"), ("siglip_vision_model", "siglip")],
)
def test_kind_is_told_by_model_type(tmp_path: Path, model_type: str, kind: str) -> None:
    write_json(tmp_path / "config.json", {"model_type": model_type})
    assert kind_of(tmp_path) == kind


@pytest.mark.parametrize("model_type", ["llama", None, ["qwen2"]])
def test_unknown_model_type_is_refused(tmp_path: Path, model_type: object) -> None:
    write_json(tmp_path / "config.json", {"model_type": model_type})
    with pytest.raises(ConversionError, match="unknown model_type .* accepted: llava_qwen, qwen2, siglip"):
        kind_of(tmp_path)


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"no config.json"):
        kind_of(tmp_path)


def test_resolving_local_names(tmp_path: Path) -> None:
    assert resolve_source(tmp_path) == resolve_source(str(tmp_path)) == tmp_path
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConversionError, match="this is a file"):
        resolve_source(tmp_path / "file")
    for name in (tmp_path / "nowhere", "nowhere", "a/b/c", "../x", "-a/b"):
        with pytest.raises(ConversionError, match="no such folder, and no hub id"):
            resolve_source(name)


TOKENIZER = {
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 48}},
    "added_tokens": [{"id": 49, "content": "<|im_end|>"}],
}


def test_tokenizer_that_fits(tmp_path: Path) -> None:
    check_tokenizer(tmp_path, 1)
    write_json(tmp_path / "tokenizer.json", TOKENIZER)
    check_tokenizer(tmp_path, 50)
    check_tokenizer(tmp_path, 151936)


def test_tokenizer_larger_than_the_embedding(tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer.json", TOKENIZER)
    with pytest.raises(
        ConversionError, match=r"vocabulary mismatch: .*'<\|im_end\|>' the id 49, the embedding has 49 rows"
    ):
        check_tokenizer(tmp_path, 49)
    (tmp_path / "tokenizer.json").unlink()
    write_json(tmp_path / "vocab.json", {"a": 0, "b": 60})
    with pytest.raises(ConversionError, match="'b' the id 60"):
        check_tokenizer(tmp_path, 50)
    write_json(tmp_path / "tokenizer_config.json", {"added_tokens_decoder": {"70": {"content": "<c>"}}})
    with pytest.raises(ConversionError, match="'<c>' the id 70"):
        check_tokenizer(tmp_path, 65)


@pytest.mark.parametrize("value", [{"model": 3}, {"model": {"vocab": {"a": 0}}, "added_tokens": [3]}, {}])
def test_tokenizer_of_unknown_form(tmp_path: Path, value: object) -> None:
    write_json(tmp_path / "tokenizer.json", value)
    with pytest.raises(ConversionError, match="tokenizer files of an unknown form"):
        check_tokenizer(tmp_path, 50)


def test_tokenizer_files_are_copied_and_nothing_else(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    target.mkdir()
    for name in ("merges.txt", "modeling.py", "chat_template.jinja"):
        (source / name).write_text(name)
    (source / "tokenizer.json").symlink_to(write_json(tmp_path / "blob", TOKENIZER))  # as in a hub cache
    copy_tokenizer(source, target)
    assert sorted(path.name for path in target.iterdir()) == ["chat_template.jinja", "merges.txt", "tokenizer.json"]
    assert not (target / "tokenizer.json").is_symlink()


_CHILD = """
import sys
from vxlpro_jax.convert import ConversionError, convert
try:
    print(convert(sys.argv[1], sys.argv[2], to="torch"))
except ConversionError as error:
    sys.exit(f"ConversionError: {error}")
"""


def convert_from_hub(endpoint: str, name: str, target: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Convert in a process of its own: the hub client reads its environment once, when it is imported."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    environment = {key: value for key, value in environment.items() if not key.lower().endswith("_proxy")}
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-c", _CHILD, name, str(target)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)


def test_hub_id_fetches_weights_and_json_but_no_code(tmp_path: Path) -> None:
    state = random_state(released_shapes(tiny_config(tied=False)))
    repository = write_released(tmp_path / "repository", tiny_config(tied=False), state, num_shards=2)
    write_json(repository / "tokenizer.json", TOKENIZER)
    for name in ("modeling_llava.py", "pytorch_model.bin", "README.md"):
        (repository / name).write_text("raise SystemExit('run')")
    (repository / "merges.txt").write_text("a b")
    with hub_serving("someone/Video-XL-Pro", repository) as server:
        done = convert_from_hub(server.endpoint, "someone/Video-XL-Pro", tmp_path / "out", tmp_path / "home")
        missing = convert_from_hub(server.endpoint, "someone/else", tmp_path / "no", tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "tokenizer.json").is_file() and (tmp_path / "out" / "merges.txt").is_file()
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    fetched = ["config.json", "merges.txt", *shards, "model.safetensors.index.json", "tokenizer.json"]
    assert sorted(set(server.asked)) == fetched
    assert missing.returncode == 1 and "ConversionError: someone/else: no such folder here" in missing.stderr
    assert not (tmp_path / "no").exists()


def test_hub_that_does_not_answer(tmp_path: Path) -> None:
    done = convert_from_hub("http://127.0.0.1:9", "someone/Video-XL-Pro", tmp_path / "out", tmp_path / "home")
    assert done.returncode == 1 and "ConversionError: someone/Video-XL-Pro: no such folder here" in done.stderr
    assert "Traceback" not in done.stderr
