"""Whole conversions: bits that survive in every direction, and bad input that leaves nothing behind.

Source: ours.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from bench.convert_memory import measure
from bench.make_3b_checkpoint import write_random_checkpoint
from tests.convert.reference_layout import (
    DTYPES,
    TOWER,
    assert_same_state,
    random_state,
    read_state,
    released_shapes,
    tiny_config,
    write_released,
    write_shards,
)
from vxlpro_jax.convert.conversion import convert, load_config, load_params, save_params_as
from vxlpro_jax.convert.errors import ConversionError
from vxlpro_jax.models.presets import PRESETS, config_to_dict


def make_state(tied: bool = True, head: bool = False, dtype: str = "float32") -> dict[str, np.ndarray]:
    state = random_state(released_shapes(tiny_config(tied)), dtype)
    if tied and head:
        state["lm_head.weight"] = state["model.embed_tokens.weight"].copy()
    elif tied:
        del state["lm_head.weight"]
    return state


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_released(tmp_path / "source", tiny_config(), make_state(), num_shards=3)


def rewrite_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("tied", "head", "dtype", "num_shards"),
    [
        (True, False, "bfloat16", 4),
        (True, True, "float16", 1),
        (False, True, "float32", 4),
        (False, True, "bfloat16", 1),
    ],
)
def test_round_trip_is_exact(tmp_path: Path, tied: bool, head: bool, dtype: str, num_shards: int) -> None:
    state = make_state(tied, head, dtype)
    folder = write_released(tmp_path / "source", tiny_config(tied), state, num_shards)
    convert(folder, tmp_path / "orbax", to="orbax")
    convert(tmp_path / "orbax", tmp_path / "torch", to="torch", shard_bytes=50_000)
    assert_same_state(read_state(tmp_path / "torch"), state)
    assert len(list((tmp_path / "torch").glob("*.safetensors"))) > 1
    before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("source", "torch"))
    assert {key: after[key] for key in before} == before
    assert after["vxlpro_jax"] == config_to_dict(tiny_config(tied)) and after["torch_dtype"] == dtype
    # and from what was written, in one step and once more
    convert(tmp_path / "torch", tmp_path / "again", to="torch")
    assert_same_state(read_state(tmp_path / "again"), state)
    convert(tmp_path / "orbax", tmp_path / "orbax2", to="orbax")
    for one, two in zip(
        jax.tree.leaves(load_params(tmp_path / "orbax2")[1]), jax.tree.leaves(load_params(folder)[1]), strict=True
    ):
        assert one.dtype == two.dtype and one.tobytes() == two.tobytes()


def test_golden_checkpoint_round_trip(golden_dir: Path, tmp_path: Path) -> None:
    folder = golden_dir / "full_model_state"
    convert(folder, tmp_path / "orbax")
    convert(tmp_path / "orbax", tmp_path / "torch", to="torch")
    assert_same_state(read_state(tmp_path / "torch"), read_state(folder))


def test_types_may_differ_between_leaves_but_not_within_a_stack(tmp_path: Path) -> None:
    state = make_state(dtype="bfloat16")
    state = {key: tensor.astype(np.float32) if "norm" in key else tensor for key, tensor in state.items()}
    folder = write_released(tmp_path / "source", tiny_config(), state)
    convert(folder, tmp_path / "orbax")
    convert(tmp_path / "orbax", tmp_path / "torch", to="torch")
    assert_same_state(read_state(tmp_path / "torch"), state)
    key = "model.layers.1.mlp.up_proj.weight"
    write_shards(folder, {**state, key: state[key].astype(np.float32)})
    with pytest.raises(ConversionError, match=r"layers.0.mlp.up_proj.weight is BF16, model.layers.1.* is F32"):
        convert(folder, tmp_path / "out")


def test_tower_without_its_infix(tmp_path: Path) -> None:
    state = make_state()
    newer = {key.replace(TOWER, TOWER.removesuffix("vision_model.")): tensor for key, tensor in state.items()}
    assert newer.keys() != state.keys()
    convert(write_released(tmp_path / "newer", tiny_config(), newer), tmp_path / "torch", to="torch")
    assert_same_state(read_state(tmp_path / "torch"), state)
    write_shards(tmp_path / "newer", newer | state)
    with pytest.raises(ConversionError, match="in both spellings"):
        convert(tmp_path / "newer", tmp_path / "out")


def test_leaves_hold_what_the_keys_say(source: Path) -> None:
    config, params = load_params(source)
    state, leaves = read_state(source), flatten_dict(params, sep="/")
    assert config == load_config(source) == tiny_config()
    key = "model.layers.{}.mlp.down_proj.weight"
    for layer in range(3):
        np.testing.assert_array_equal(leaves["llm/layers/mlp/down_proj/kernel"][layer], state[key.format(layer)].T)
    conv = state["model.sae.encoder.5.conv.weight"]
    np.testing.assert_array_equal(leaves["dts/stage_1/conv/kernel"][2, 1, 0], conv[:, :, 2, 1, 0].T)
    qkv = state["model.sae.encoder.4.qkv.weight"]
    np.testing.assert_array_equal(leaves["dts/stage_1/temporal/qkv/kernel"], qkv[:, :, 0].T)
    patch = state[TOWER + "embeddings.patch_embedding.weight"]
    np.testing.assert_array_equal(leaves["vision_tower/patch_embedding/kernel"][3, 5], patch[:, :, 3, 5].T)
    convert(source, source.parent / "orbax")
    for leaf in (*leaves.values(), *jax.tree.leaves(load_params(source.parent / "orbax")[1])):
        assert leaf.ctypes.data % 64 == 0, "else jax copies them, which takes the model's memory twice"


def test_casting(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "torch", to="torch", dtype="bfloat16")
    expected = {key: tensor.astype(DTYPES["bfloat16"]) for key, tensor in read_state(source).items()}
    assert_same_state(read_state(tmp_path / "torch"), expected)
    convert(source, tmp_path / "orbax", dtype="bfloat16")
    for folder in (source, tmp_path / "orbax"):
        leaves = jax.tree.leaves(load_params(folder, dtype="float32")[1])
        assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}
    assert json.loads((tmp_path / "orbax" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_parameters_from_memory(source: Path, tmp_path: Path) -> None:
    config, params = load_params(source)
    on_device = jax.tree.map(jax.numpy.asarray, params)
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    save_params_as(
        tmp_path / "torch", config, on_device, to="torch", tokenizer_folder=tokenizer, released={"eos_token_id": 9}
    )
    assert_same_state(read_state(tmp_path / "torch"), read_state(source))
    assert json.loads((tmp_path / "torch" / "config.json").read_text())["eos_token_id"] == 9
    assert load_config(tmp_path / "torch") == config and (tmp_path / "torch" / "tokenizer.json").is_file()
    save_params_as(tmp_path / "orbax", config, on_device, to="orbax", dtype="float16")
    convert(tmp_path / "orbax", tmp_path / "half", to="torch")
    half = {key: tensor.astype(np.float16) for key, tensor in read_state(source).items()}
    assert_same_state(read_state(tmp_path / "half"), half)


def test_parameters_of_another_config_are_refused(source: Path, tmp_path: Path) -> None:
    config, params = load_params(source)
    leaves = flatten_dict(params, sep="/")
    leaves["llm/more"] = leaves.pop("llm/norm/scale")
    leaves["selector/text_mlp/bias"] = np.zeros(3, np.float32)
    with pytest.raises(
        ConversionError, match=r"missing llm/norm/scale.*text_mlp/bias is \[3\] instead of \[24\].*llm/more"
    ):
        save_params_as(tmp_path / "out", config, unflatten_dict(leaves, sep="/"))
    with pytest.raises(ConversionError, match="parameters of type int32: llm/norm/scale"):
        params["llm"]["norm"]["scale"] = np.ones(24, np.int32)
        save_params_as(tmp_path / "out", config, params)
    assert not (tmp_path / "out").exists()


# Each damages a folder of the released layout; the message has to name what is wrong.
def _drop_key(folder: Path) -> None:
    state = read_state(folder)
    shutil.rmtree(folder / "more", ignore_errors=True)
    _replace(folder, {key: tensor for key, tensor in state.items() if key != "model.norm.weight"})


def _replace(folder: Path, state: dict[str, np.ndarray]) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    write_shards(folder, state, 2)


def _change(key: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        state = read_state(folder)
        _replace(folder, {**state, key: change(state[key])})

    return damage


def _config(**changes: object) -> Callable[[Path], None]:
    return lambda folder: rewrite_config(folder, **changes)


def _large_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "zz": 50}}}))


def _truncate(folder: Path) -> None:
    path = folder / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def _only_pickle(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")


def _spare_head(folder: Path) -> None:
    state = read_state(folder)
    head = state["model.embed_tokens.weight"].copy()
    head[-1, -1] += 1
    _replace(folder, {**state, "lm_head.weight": head})


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing shard": (lambda folder: (folder / "model-00003-of-00003.safetensors").unlink(), "model-00003-of-00003"),
    "truncated": (_truncate, "model-00002-of-00003.safetensors: truncated"),
    "missing key": (_drop_key, "1 missing keys: model.norm.weight"),
    "unknown key": (
        lambda folder: _replace(folder, {**read_state(folder), "model.image_newline": np.zeros(24, np.float32)}),
        "1 unknown keys: model.image_newline",
    ),
    "wrong shape": (_change("model.norm.weight", lambda w: w[:-1]), r"model.norm.weight is \[23\], .* asks for \[24\]"),
    "transposed": (_change("model.layers.1.mlp.up_proj.weight", lambda w: w.T.copy()), r"up_proj.weight is \[24, 36\]"),
    "a layer too few": (_config(num_hidden_layers=4), "missing keys: model.layers.3."),
    "a layer too many": (_config(num_hidden_layers=2), "unknown keys: model.layers.2."),
    "integers": (_change("model.norm.weight", lambda w: w.astype(np.int32)), "keys of type I32: model.norm.weight"),
    "float64": (_change("model.norm.weight", lambda w: w.astype(np.float64)), "keys of type F64: model.norm.weight"),
    "model_type": (_config(model_type="llama"), "unknown model_type 'llama'"),
    "vocabulary": (_large_tokenizer, "vocabulary mismatch: .*'zz' the id 50, the embedding has 50 rows"),
    "head missing": (_config(tie_word_embeddings=False), "missing keys: lm_head.weight"),
    "head differs": (_spare_head, "lm_head.weight differs from model.embed_tokens.weight"),
    "pickle": (_only_pickle, "pytorch_model.bin .* safetensors"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), "config.json: cannot be read as JSON"),
    "binary config": (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe{"), "config.json: cannot be read"),
    "no model": (_config(num_key_value_heads=3), "the sizes of config.json do not make a model|k_proj.weight is"),
}


@pytest.mark.parametrize("to", ["orbax", "torch"])
@pytest.mark.parametrize("name", list(DAMAGES))
def test_bad_input_is_named_and_leaves_nothing(source: Path, tmp_path: Path, name: str, to: str) -> None:
    damage, message = DAMAGES[name]
    damage(source)
    with pytest.raises(ConversionError, match=message):
        convert(source, tmp_path / "deep" / "out", to=to)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_bad_places_and_arguments(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConversionError, match="source: exists"):
        convert(source, source, to="torch")
    with pytest.raises(ConversionError, match="to = 'onnx'; accepted: 'orbax', 'torch'"):
        convert(source, tmp_path / "out", to="onnx")  # type: ignore[arg-type]
    with pytest.raises(ConversionError, match="dtype = 'int8'; accepted: float32"):
        convert(source, tmp_path / "out", dtype="int8")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(ConversionError, match="no space"):
        convert(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("to", ["orbax", "torch"])
def test_failing_halfway_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    reads = []

    def fail(*args: object) -> None:
        reads.append(args)
        if len(reads) > 20:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("vxlpro_jax.convert.torch_to_jax.read_into", fail)
    with pytest.raises(ConversionError, match="Input/output error"):
        convert(source, tmp_path / "out", to=to)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_damaged_orbax_folders(source: Path, tmp_path: Path) -> None:
    folder = convert(source, tmp_path / "orbax")
    rewrite_config(folder, vxlpro_jax=config_to_dict(tiny_config(tied=False)))
    with pytest.raises(ConversionError, match="lacks llm/lm_head/kernel"):
        load_params(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ConversionError, match="config.json"):
        convert(folder, tmp_path / "out", to="torch")
    assert not (tmp_path / "out").exists()


def test_random_checkpoint_of_a_preset(tmp_path: Path) -> None:
    folder = write_random_checkpoint(tmp_path / "tiny", PRESETS["tiny"], seed=1, shard_bytes=2_000_000)
    config, params = load_params(folder)
    assert config == PRESETS["tiny"] and len(list(folder.glob("*.safetensors"))) >= 4
    again = write_random_checkpoint(tmp_path / "again", PRESETS["tiny"], seed=1, shard_bytes=10**9)
    assert_same_state(read_state(again), read_state(folder))
    assert params["llm"]["norm"]["scale"].astype(np.float32).mean() == pytest.approx(1, abs=0.05)


@pytest.mark.slow
def test_peak_memory_is_the_model_and_one_shard(tmp_path: Path) -> None:
    result = measure(1, tmp_path)
    assert result["model_bytes"] > 3e8 and result["num_shards"] >= 4
    for name, run in result["runs"].items():
        extra = run["peak_bytes"] - run["idle_bytes"]
        buffers = 2**25 if name == "load orbax" else 0  # there are no shards in an Orbax folder, and Orbax has its own
        assert extra <= result["model_bytes"] + result["largest_shard_bytes"] + buffers, name
