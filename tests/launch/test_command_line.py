"""The reader that the commands share: nothing global, so that all of them live in one process."""

import importlib
from pathlib import Path

import pytest
from absl import flags

import launch
from launch.command_line import read_command
from vxlpro_jax.data.pipeline import BrokenDataError
from vxlpro_jax.train.loop import NotFiniteError, StoppedError

OPTIONS, SWITCHES = {"workdir": "folder of the run"}, {"again": "once more"}
EVAL = "--config=configs/tiny/eval.py"


def read(*argv, required=("config",)):
    return read_command("launch.some", list(argv), OPTIONS, required, SWITCHES)


def test_all_commands_are_imported_in_one_process_and_define_no_flags():
    modules = [path.stem for path in Path(launch.__path__[0]).glob("*.py")]
    commands = [module for name in modules if hasattr(module := importlib.import_module(f"launch.{name}"), "main")]
    assert {"train", "evaluate", "prune", "recot_report"} <= {module.__name__.split(".")[1] for module in commands}
    assert not [module for module in flags.FLAGS.flags_by_module_dict() if module.startswith(("launch", "__main__"))]
    assert "config" not in flags.FLAGS and "workdir" not in flags.FLAGS


def test_configuration_options_and_switches():
    config, options = read(EVAL, "--config.seed=3", "--workdir", "runs/x", "--again")
    assert config.seed == 3 and options == {"workdir": "runs/x", "again": True}
    config, options = read("--config", "configs/tiny/eval.py")
    assert config.seed != 3 and options == {"workdir": None, "again": False}, "nothing is left of the call before"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([EVAL, "--config.run.max_frame=2"], 'no key max_frame; did you mean "max_frames"'),
        ([EVAL, "--config.seed=abc"], "seed"),
        (["--config=configs/tiny/nowhere.py"], "nowhere.py"),
        ([EVAL, "--worcdir=x"], "worcdir"),
        ([EVAL, "--again=perhaps"], "again"),
        ([EVAL, "surplus"], "['surplus'] are no arguments"),
        ([], "--config, --workdir is needed"),
        ([EVAL], "--workdir is needed"),
    ],
)
def test_what_is_wrong_is_told_in_a_line_with_code_2(argv, said, capsys):
    with pytest.raises(SystemExit) as ended:
        read(*argv, required=("config", "workdir"))
    told = capsys.readouterr().err
    assert ended.value.code == 2 and said in told and told.startswith("launch.some: ") and told.count("\n") == 1


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as ended:
        read("--help")
    told = capsys.readouterr().out
    assert ended.value.code == 0 and all(f"--{name}" in told for name in ("config", *OPTIONS, *SWITCHES))


def stopped(*args):
    raise StoppedError("stopped after step 3 of 9")


def not_finite(*args):
    raise NotFiniteError("2 steps in a row")


def wrong(*args):
    raise BrokenDataError("9 of 9 samples are broken")


@pytest.mark.parametrize(("end", "code"), [(stopped, 75), (not_finite, 3), (wrong, 2)])
@pytest.mark.parametrize(
    ("command", "place", "config"),
    [
        ("train", "launch.train_stage.run", "configs/tiny/tower.py"),
        ("train", "launch.recot_run.run", "configs/tiny/recot.py"),
        ("ablate", "launch.ablate.run", "configs/ablations/selector.py"),
        ("recot_report", "launch.recot_report.report", "configs/tiny/recot_report.py"),
        ("make_tiny", "launch.make_tiny.make", ""),
    ],
)
def test_commands_that_train_tell_how_they_ended(command, place, config, end, code, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(place, end)
    argv = [*([f"--config={config}"] if config else []), f"--workdir={tmp_path / 'run'}"]
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"launch.{command}").main(argv)
    assert ended.value.code == code
    with pytest.raises(Exception) as raised:
        end()
    assert capsys.readouterr().err == f"launch.{command}: {raised.value}\n"
