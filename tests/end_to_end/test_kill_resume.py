"""The short form of kill_resume.py: a few kills of each kind; the long one is run by hand (docs/training.md)."""

import json

import pytest

from tests.end_to_end import kill_resume


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "number"), [("train", "KILL"), ("train", "TERM"), ("index", "KILL"), ("prune", "KILL")]
)
def test_kills_change_nothing(target, number, tmp_path):
    report = tmp_path / "report.json"
    assert kill_resume.main(["--kills", "2", "--target", target, "--signal", number, "--json", str(report)]) == 0
    found = json.loads(report.read_text())
    assert found["kills"] == 2 and found["differing"] == [] and found["runs_compared"] >= 1


def test_a_difference_is_told():
    assert kill_resume.compare({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == ["b", "c"]
