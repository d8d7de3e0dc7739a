"""A measurement is printed and written alike, with the machine beside it."""

import json

from bench.report import tell


def test_figures_are_printed_and_written_with_the_machine(tmp_path, capsys):
    tell({"ratio": 2.0}, tmp_path / "found.json")
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads((tmp_path / "found.json").read_text())
    assert said["ratio"] == 2.0 and "cores" in said["machine"] and len(said["load_average_at_end"]) == 3
    tell({"ratio": 3.0}, None)
    assert json.loads(capsys.readouterr().out)["ratio"] == 3.0
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]
