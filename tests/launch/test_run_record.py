"""A resumed run is the same run: what changed is told and refused, but for what changes no number."""

import dataclasses
import importlib
import shutil
from contextlib import nullcontext

import numpy as np
import pytest

from launch.run_record import check_record, check_room, differences
from vxlpro_jax.checkpoint import RunCheckpoints
from vxlpro_jax.config import build
from vxlpro_jax.train.recot_stage import ReCoTRunConfig


@pytest.fixture
def config():
    return build(importlib.import_module("configs.tiny.answers_short").get_config())


def save_step(workdir):
    checkpoints = RunCheckpoints(workdir / "checkpoints", 1, 0)
    checkpoints.save(1, {"w": np.random.default_rng(0).normal(size=1000)}, {})
    checkpoints.close()


def test_the_same_configuration_passes_again(config, tmp_path):
    check_record(config, tmp_path / "run", False)
    check_record(config, tmp_path / "run", False)


@pytest.mark.parametrize("kept", ["checkpoints", "model"])
def test_what_changed_is_told_and_refused_unless_allowed(config, tmp_path, kept):
    check_record(config, tmp_path, False)
    if kept == "checkpoints":
        save_step(tmp_path)
    else:
        (tmp_path / "model").mkdir()
    optimizer = dataclasses.replace(config.optimizer, peak_rate=0.5)
    changed = dataclasses.replace(config, optimizer=optimizer, init_from="elsewhere")
    with pytest.raises(ValueError, match=r"init_from: '.*' -> 'elsewhere'; optimizer.peak_rate: .* -> 0.5.*--allow_ch"):
        check_record(changed, tmp_path, False)
    check_record(changed, tmp_path, True)
    check_record(changed, tmp_path, False)


def test_a_start_that_saved_no_step_may_be_corrected(config, tmp_path):
    check_record(config, tmp_path, False)
    corrected = dataclasses.replace(config, init_from="elsewhere")
    check_record(corrected, tmp_path, False)
    save_step(tmp_path)
    with pytest.raises(ValueError, match="init_from: 'elsewhere' -> "):
        check_record(config, tmp_path, False)


@pytest.mark.parametrize(
    ("key", "may"),
    [("data.workers", True), ("feed.train.workers", True), ("data.fps", False), ("feed.train.root", False)],
)
def test_a_reconstructive_run_may_go_on_with_other_workers_alone(tmp_path, key, may):
    values = importlib.import_module("configs.recot").get_config()
    check_record(build(values, ReCoTRunConfig), tmp_path, False)
    save_step(tmp_path)
    with values.unlocked():
        values.update_from_flattened_dict({key: "elsewhere" if key.endswith("root") else 7})
    with nullcontext() if may else pytest.raises(ValueError, match=f"{key}: "):
        check_record(build(values, ReCoTRunConfig), tmp_path, False)


def test_what_changes_no_number_may_change(config, tmp_path):
    check_record(config, tmp_path, False)
    save_step(tmp_path)
    check_record(dataclasses.replace(config, loop=dataclasses.replace(config.loop, log_every=1)), tmp_path, False)
    check_record(dataclasses.replace(config, mesh={"data": 4}), tmp_path, False)


def test_blocks_that_come_and_go_are_told():
    assert differences({"rows": {}}, {"rows": {"g1": {"weight": 1}}}) == ["rows.g1.weight: 'not there' -> 1"]
    assert differences({"rows": {}, "a": 1}, {"a": 1}) == []


def test_a_folder_that_cannot_be_made_is_an_error(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        check_record(config, tmp_path / "file" / "run", False)


def test_a_disk_without_room_is_told_before_the_run(tmp_path):
    check_room(tmp_path, 1000)
    with pytest.raises(OSError, match=r"1000000000.0 GB are needed.*GB are free"):
        check_room(tmp_path, 10**18)


def test_checkpoints_that_lie_there_are_room(tmp_path, monkeypatch):
    """A run that filled its disk as foreseen can be gone on with."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(OSError, match="are needed"):
        check_room(tmp_path, 3000)
    save_step(tmp_path)
    check_room(tmp_path, 3000)
