"""Names, files and exit codes; what needs torch says so where there is none."""

import ast
import json
from pathlib import Path

import pytest

from bench import run
from bench.torch_speed import BARS, DifferentNumbersError


@pytest.fixture
def ran(monkeypatch):
    """Names of what would have run."""
    names = []
    for name in run.OURS_ALONE:
        monkeypatch.setitem(run.OURS_ALONE, name, lambda name=name: names.append(name))
    monkeypatch.setattr(
        run,
        "beside_torch",
        lambda asked: (
            names.extend(asked)
            or {name: {"times_as_fast": 1.1, "bar": BARS[name], "holds": BARS[name] <= 1.1} for name in asked}
        ),
    )
    monkeypatch.setattr(run, "find_spec", lambda name: object())
    monkeypatch.setattr(run, "version", lambda package: "0")
    return names


def test_every_comparison_has_its_sides():
    source = Path(run.__file__).with_name("torch_sides.py").read_text(encoding="utf-8")
    (table,) = [
        node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "SIDES"
    ]
    assert [key.value for key in table.keys] == list(BARS)


@pytest.mark.parametrize(("name", "code"), [("dts", 0), ("prefill", 1)])
def test_the_exit_code_says_whether_the_bar_is_met(name, code, ran, tmp_path, capsys):
    file = tmp_path / "found.json"
    assert run.main(["--only", name, "--json", str(file)]) == code and ran == [name]
    assert json.loads(file.read_text())["compared"][name]["times_as_fast"] == 1.1
    assert ("missed: prefill: 1.1, the bar is 1.2" in capsys.readouterr().err) == bool(code)
    assert run.main(["--only", name, "--json", str(tmp_path / "none" / "found.json")]) == 2


def test_without_torch_the_others_run(ran, monkeypatch, capsys):
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    assert run.main([]) == 0 and ran == list(run.OURS_ALONE)
    said = capsys.readouterr().out
    assert "torch is not installed here" in said and "make parity" in said and all(name in said for name in BARS)
    with pytest.raises(SystemExit) as end:
        run.main(["--only", "decode_speed", "--only", "dts"])
    assert end.value.code == 2 and "dts: compared with PyTorch" in capsys.readouterr().err


def test_all_run_where_torch_is(ran):
    assert run.main([]) == 1 and ran == [*run.OURS_ALONE, *BARS]


@pytest.mark.parametrize("wrong", [["--only", "speed"], ["--only", "decode_speed", "--json", "found.json"]])
def test_wrong_arguments_are_told(wrong, ran, capsys):
    with pytest.raises(SystemExit) as end:
        run.main(wrong)
    assert end.value.code == 2 and wrong[-1] in capsys.readouterr().err and not ran


def test_other_numbers_end_it(ran, monkeypatch, capsys):
    def differ(names):
        raise DifferentNumbersError("ours and PyTorch's differ")

    monkeypatch.setattr(run, "beside_torch", differ)
    assert run.main(["--only", "dts"]) == 1 and "differ" in capsys.readouterr().err
