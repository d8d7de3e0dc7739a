"""The command: what is wrong is told in a line and with exit code 2, before anything heavy is even imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def train(tmp_path, *arguments):
    command = [sys.executable, "-m", "launch.train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config=configs/tiny/tower.py", "--config.stage.num_stepz=3"], "num_stepz"),
        (["--config=configs/tiny/tower.py", "--config.stage.num_steps=many"], "num_steps"),
        (["--config=configs/tiny/nowhere.py"], "nowhere.py"),
        ([], "config"),
    ],
)
def test_wrong_keys_values_and_files(arguments, told, tmp_path):
    found = train(tmp_path, *arguments, f"--workdir={tmp_path / 'run'}")
    assert found.returncode == 2 and told in found.stderr and "Traceback" not in found.stderr
    assert not (tmp_path / "run").exists()


# Files that are there; what is in them is not looked at before the rest is checked.
ANY_FILES = [f"--config.data.{name}.mixture={Path(__file__)}" for name in ("train", "heldout")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config.preset=tyni"], "config.preset='tyni': one of"),
        (["--config.init_from=no/where", *ANY_FILES], "config.init_from='no/where'"),
        (["--config.data.train.mixture=no.yaml"], "config.data.train.mixture='no.yaml': there is no such file"),
        (["surplus"], "are no arguments"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_loaded(arguments, told, tmp_path):
    found = train(tmp_path, "--config=configs/tiny/sft.py", *arguments, f"--workdir={tmp_path / 'run'}")
    assert found.returncode == 2 and told in found.stderr and "Traceback" not in found.stderr


@pytest.mark.slow
def test_a_work_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    found = train(tmp_path, "--config=configs/tiny/tower.py", f"--workdir={tmp_path / 'file' / 'run'}")
    assert found.returncode == 2 and "file" in found.stderr and "Traceback" not in found.stderr
