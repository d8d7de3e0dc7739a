"""The command: what is wrong is told in a line and with exit code 2, before anything heavy is even imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch import train

# What the command must not need to tell that its arguments are wrong.
HEAVY = {"jax", "flax", "orbax", "grain", "vxlpro_jax"}


def told_by(capsys, *arguments):
    """What the command says of wrong arguments."""
    with pytest.raises(SystemExit) as ended:
        train.main(list(arguments))
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_wrong_arguments_end_the_program_before_anything_heavy_is_imported(tmp_path):
    run = f"""
import runpy, sys
sys.argv = ["launch.train", "--config=configs/tiny/tower.py", "--config.stage.num_stepz=3", "--workdir={tmp_path}/run"]
try:
    runpy.run_module("launch.train", run_name="__main__")
except SystemExit as ended:
    print(ended.code, sorted({HEAVY!r} & set(sys.modules)))
"""
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    found = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, env=environment)
    assert found.stdout == "2 []\n" and "num_stepz" in found.stderr and "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config=configs/tiny/tower.py", "--config.stage.num_steps=many"], "num_steps"),
        (["--config=configs/tiny/nowhere.py"], "nowhere.py"),
        ([], "config"),
    ],
)
def test_wrong_keys_values_and_files(arguments, told, tmp_path, capsys):
    assert told in told_by(capsys, *arguments, f"--workdir={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


# Files that are there; what is in them is not looked at before the rest is checked.
ANY_FILES = [f"--config.data.{name}.mixture={Path(__file__)}" for name in ("train", "heldout")]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config.preset=tyni"], "config.preset='tyni': one of"),
        (["--config.init_from=no/where", *ANY_FILES], "config.init_from='no/where'"),
        (["--config.data.train.mixture=no.yaml"], "config.data.train.mixture='no.yaml': there is no such file"),
        (["surplus"], "are no arguments"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_loaded(arguments, told, tmp_path, capsys):
    assert told in told_by(capsys, "--config=configs/tiny/sft.py", *arguments, f"--workdir={tmp_path / 'run'}")


def test_a_work_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    workdir = tmp_path / "file" / "run"
    assert "file" in told_by(capsys, "--config=configs/tiny/tower.py", f"--workdir={workdir}")
