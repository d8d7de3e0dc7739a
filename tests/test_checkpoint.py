"""Orbax folders: bits survive, names and shapes are checked, damage is named.

Source: ours.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vxlpro_jax.checkpoint import (
    CheckpointError,
    RunCheckpoints,
    has_params,
    has_state,
    read_groups,
    read_some,
    restore_params,
    save_params,
    stored_params,
)


@pytest.fixture
def params() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "llm": {
            "kernel": rng.standard_normal((3, 8, 4)).astype(ml_dtypes.bfloat16),
            "scale": rng.standard_normal(5).astype(np.float16),
        },
        "encoding": jax.numpy.asarray(rng.standard_normal((8, 2)), np.float32),
    }


def abstract(params: dict[str, Any]) -> dict[str, Any]:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, np.float32), params)


def assert_same_bits(found: Any, expected: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_bits_and_types_survive(tmp_path: Path, params: dict[str, Any]) -> None:
    assert not has_params(tmp_path)
    save_params(tmp_path, params)
    assert has_params(tmp_path)
    restored = restore_params(tmp_path, abstract(params))
    assert_same_bits(restored, params)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(restored))


def test_a_folder_can_be_moved(tmp_path: Path, params: dict[str, Any]) -> None:
    (tmp_path / "a").mkdir()
    save_params(tmp_path / "a", params)
    (tmp_path / "a").rename(tmp_path / "b")
    assert_same_bits(restore_params(tmp_path / "b", abstract(params)), params)


def test_reading_casts(tmp_path: Path, params: dict[str, Any]) -> None:
    save_params(tmp_path, params)
    restored = restore_params(tmp_path, abstract(params), np.dtype(np.float32))
    np.testing.assert_array_equal(restored["llm"]["kernel"], params["llm"]["kernel"].astype(np.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(restored)} == {np.dtype(np.float32)}


def test_leaves_are_laid_out_as_asked(tmp_path: Path, params: dict[str, Any]) -> None:
    save_params(tmp_path, params)
    mesh = jax.make_mesh((4,), ("fsdp",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("fsdp"))
    target = abstract(params)
    target["encoding"] = jax.ShapeDtypeStruct((8, 2), np.float32, sharding=sharding)
    restored = restore_params(tmp_path, target)
    assert restored["encoding"].sharding == sharding
    assert_same_bits(restored, params)
    save_params(tmp_path / "again", restored)
    assert_same_bits(restore_params(tmp_path / "again", abstract(params)), params)


def test_shapes_are_known_without_reading(tmp_path: Path, params: dict[str, Any]) -> None:
    save_params(tmp_path, params)
    stored = stored_params(tmp_path)
    assert {path: (leaf.shape, np.dtype(leaf.dtype).name) for path, leaf in stored.items()} == {
        "llm/kernel": ((3, 8, 4), "bfloat16"),
        "llm/scale": ((5,), "float16"),
        "encoding": ((8, 2), "float32"),
    }
    one = read_some(tmp_path, {"llm/scale": stored["llm/scale"]})
    assert list(one) == ["llm/scale"] and one["llm/scale"].tobytes() == params["llm"]["scale"].tobytes()


def test_groups_are_bounded_and_keep_the_order() -> None:
    sizes = {"a": 5, "b": 5, "c": 1, "d": 20, "e": 1}
    leaves = {path: jax.ShapeDtypeStruct((size,), np.int8) for path, size in sizes.items()}
    assert read_groups(leaves, 10) == [["a", "b"], ["c"], ["d"], ["e"]]


def test_other_parameters_than_asked_for_are_named(tmp_path: Path, params: dict[str, Any]) -> None:
    save_params(tmp_path, params)
    target = abstract(params)
    target["more"] = target.pop("encoding")
    target["llm"]["scale"] = jax.ShapeDtypeStruct((6,), np.float32)
    with pytest.raises(
        CheckpointError, match=r"lacks more; holds encoding, .*llm/scale is \[5\], the model's is \[6\]"
    ):
        restore_params(tmp_path, target)


def test_folders_that_are_none(tmp_path: Path, params: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="no params/_METADATA"):
        stored_params(tmp_path)
    save_params(tmp_path, params)
    (tmp_path / "params" / "_METADATA").write_text("{")
    with pytest.raises(CheckpointError, match="damaged metadata"):
        stored_params(tmp_path)


@pytest.mark.parametrize("files", ["*", "ocdbt.process_0/d/*"])
@pytest.mark.parametrize("damage", ["remove", "cut"])
def test_damaged_data_is_named(tmp_path: Path, params: dict[str, Any], damage: str, files: str) -> None:
    params["big"] = np.ones((1000, 1000), np.float32)
    save_params(tmp_path, params)
    for path in (tmp_path / "params").rglob(files):
        if path.is_file() and "METADATA" not in path.name and "sharding" not in path.name:
            path.unlink() if damage == "remove" else path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="cannot be read|damaged"):
        restore_params(tmp_path, abstract(params))


def test_a_folder_is_looked_at_and_let_go_of(tmp_path, monkeypatch):
    closed = []
    close = RunCheckpoints.close
    monkeypatch.setattr(RunCheckpoints, "close", lambda self: closed.append(self.folder) or close(self))
    assert not has_state(tmp_path / "run") and not (tmp_path / "run").exists()
    saved = RunCheckpoints(tmp_path / "run", 1, 0)
    saved.save(3, {"w": np.zeros(2)}, {})
    saved.close()
    assert has_state(tmp_path / "run") and closed == [tmp_path / "run"] * 2


def test_a_run_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file/run: cannot open a checkpoint .*give the folder room and rights"):
        RunCheckpoints(tmp_path / "file" / "run", 1, 0)


def test_a_save_that_finds_no_room_is_told_and_leaves_the_last_one(tmp_path):
    """Files may not grow beyond a size, as on a full disk; in a process of its own, which the limit is for."""
    script = """
import resource, signal, sys
import subprocess
import sys
from pathlib import Path
import numpy as np
from vxlpro_jax.checkpoint import CheckpointError, RunCheckpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
saved = RunCheckpoints(Path(sys.argv[1]), 2, 0)
rng = np.random.default_rng(0)
saved.save(1, {"w": rng.normal(size=100)}, {"step": 1})
saved.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    saved.save(2, {"w": rng.normal(size=1_000_000)}, {"step": 2})
    saved.wait()
except CheckpointError as error:
    print("told:", error)
print("latest:", RunCheckpoints(Path(sys.argv[1]), 2, 0).latest(), flush=True)
import os
os._exit(0)
"""
    found = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parent.parent,
    )
    assert "told:" in found.stdout and "cannot write a checkpoint" in found.stdout, found.stdout + found.stderr[-2000:]
    assert "latest: 1" in found.stdout
