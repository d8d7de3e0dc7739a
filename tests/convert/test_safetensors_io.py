"""Folders of shards: what is accepted, what is refused by name, and bytes that survive.

Source: SPEC 10.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.convert.reference_layout import DTYPES, assert_same_state, read_state, write_shards
from vxlpro_jax.convert.errors import ConversionError
from vxlpro_jax.convert.safetensors_io import plan_shards, read_header, read_into, same_bytes, scan_folder, write_folder


@pytest.fixture
def state() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"a": (6, 4), "b": (5,), "c": (3, 2, 2), "d": (2, 3)}
    kinds = zip(shapes.items(), ("float32", "float16", "bfloat16", "float32"), strict=True)
    return {key: rng.standard_normal(shape).astype(DTYPES[kind]) for (key, shape), kind in kinds}


@pytest.fixture
def folder(tmp_path: Path, state: dict[str, np.ndarray]) -> Path:
    write_shards(tmp_path, state, num_shards=2)
    return tmp_path


def edit_index(folder: Path, **changes: str | None) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] |= changes
    index["weight_map"] = {key: name for key, name in index["weight_map"].items() if name is not None}
    path.write_text(json.dumps(index))


def test_scan_and_read_give_what_the_library_gives(folder: Path, state: dict[str, np.ndarray]) -> None:
    tensors = scan_folder(folder)
    assert tensors.keys() == state.keys()
    for key, stored in tensors.items():
        out = np.empty(stored.shape, state[key].dtype)
        read_into(stored, out)
        assert out.tobytes() == state[key].tobytes()


def test_read_into_a_transposed_array_of_another_type(folder: Path, state: dict[str, np.ndarray]) -> None:
    out = np.zeros((4, 6), np.float64)
    read_into(scan_folder(folder)["a"], out.T)
    np.testing.assert_array_equal(out.T, state["a"])


def test_chunks_cover_every_row(folder: Path, state: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vxlpro_jax.convert.safetensors_io._CHUNK_BYTES", 40)  # two rows and a half of "a"
    test_scan_and_read_give_what_the_library_gives(folder, state)
    written = folder / "written"
    written.mkdir()
    entries = {key: (tensor.shape, tensor.dtype) for key, tensor in state.items()}
    write_folder(written, entries, state.__getitem__, shard_bytes=10**6)
    assert_same_state(read_state(written), state)


@pytest.mark.parametrize("shard_bytes", [10**6, 60])
def test_written_folders_are_read_by_the_library(tmp_path: Path, state: dict, shard_bytes: int) -> None:
    entries = {key: (tensor.shape, tensor.dtype) for key, tensor in state.items()}
    write_folder(tmp_path, entries, state.__getitem__, shard_bytes)
    assert_same_state(read_state(tmp_path), state)
    assert scan_folder(tmp_path).keys() == state.keys()
    names = sorted(path.name for path in tmp_path.iterdir())
    if shard_bytes == 60:
        assert names == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)] + ["model.safetensors.index.json"]
    else:
        assert names == ["model.safetensors"]


def test_writing_casts_but_never_reshapes(tmp_path: Path, state: dict[str, np.ndarray]) -> None:
    write_folder(tmp_path, {"a": ((6, 4), np.dtype(np.float16))}, state.__getitem__, 10**6)
    np.testing.assert_array_equal(read_state(tmp_path)["a"], state["a"].astype(np.float16))
    with pytest.raises(ConversionError, match=r"a: \[6, 4\] was to be written, \[4, 6\] was announced"):
        write_folder(tmp_path, {"a": ((4, 6), np.dtype(np.float32))}, state.__getitem__, 10**6)


def test_plan_shards() -> None:
    assert plan_shards({"a": 5, "b": 5, "c": 1, "d": 20, "e": 1}, 10) == [["a", "b"], ["c"], ["d"], ["e"]]


def test_same_bytes(tmp_path: Path) -> None:
    values = np.arange(1000, dtype=np.float32)
    write_shards(tmp_path, {"a": values, "b": values.copy(), "c": values + (values == 999)})
    tensors = scan_folder(tmp_path)
    assert same_bytes(tensors["a"], tensors["b"])
    assert not same_bytes(tensors["a"], tensors["c"])


def test_missing_shard_is_named_with_its_keys(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ConversionError, match=r"missing shards: model-00002-of-00002.safetensors, which .* b, d"):
        scan_folder(folder)


def test_missing_shard_is_noticed_without_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()
    assert len(scan_folder(folder)) == 4
    (folder / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(ConversionError, match="missing shards: model-00001-of-00002.safetensors"):
        scan_folder(folder)


@pytest.mark.parametrize("keep", [0, 4, 60, -1])
def test_truncated_file_is_named(folder: Path, keep: int) -> None:
    path = folder / "model-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ConversionError, match=r"model-00001-of-00002.safetensors: truncated, damaged"):
        scan_folder(folder)


def test_file_that_shrinks_after_the_scan(folder: Path) -> None:
    stored = scan_folder(folder)["c"]
    stored.file.write_bytes(stored.file.read_bytes()[:-1])
    with pytest.raises(ConversionError, match="truncated"):
        read_into(stored, np.empty(stored.shape, np.float32))


def test_huge_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}" * 50)
    with pytest.raises(ConversionError, match=r"model.safetensors: truncated, damaged"):
        read_header(path)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "x.bin", "a\\x.safetensors"]
)
def test_index_stays_in_its_folder(folder: Path, name: str) -> None:
    edit_index(folder, a=name)
    with pytest.raises(ConversionError, match="a .*safetensors file of the same folder is needed"):
        scan_folder(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"z": "model-00001-of-00002.safetensors"}, "keys of the index that no shard holds: z"),
        ({"a": None}, "keys in shards that the index lacks: a"),
        ({"a": "model-00002-of-00002.safetensors"}, "keys in another shard than the index says: a"),
    ],
)
def test_index_has_to_agree_with_the_shards(folder: Path, changes: dict, message: str) -> None:
    edit_index(folder, **changes)
    with pytest.raises(ConversionError, match=message):
        scan_folder(folder)


def test_key_in_two_shards(folder: Path, state: dict[str, np.ndarray]) -> None:
    (folder / "model.safetensors.index.json").unlink()
    write_shards(folder / "more", {"a": state["a"]})
    (folder / "more" / "model.safetensors").rename(folder / "extra.safetensors")
    with pytest.raises(ConversionError, match="key a is in two shards"):
        scan_folder(folder)


def test_pickles_are_refused_and_safetensors_named(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ConversionError, match=r"no \*.safetensors file. pytorch_model.bin .* safetensors"):
        scan_folder(tmp_path)


@pytest.mark.parametrize("text", ["[]", '{"weight_map": 3}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "{"])
def test_damaged_index(folder: Path, text: str) -> None:
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ConversionError, match=r"model.safetensors.index.json"):
        scan_folder(folder)
