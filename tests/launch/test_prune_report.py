"""The check on known redundancy: the shipped tower ranks still, slow and busy videos, and a blind one is told."""

import json
from pathlib import Path

import numpy as np
import pytest

from launch import prune_report, prune_run


def test_still_slow_and_busy_videos_are_ranked_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the embedded tower, as the command runs it; 15 videos; the slow test asks for more."""
    monkeypatch.setattr(prune_report, "LIGHTS", {"steady": prune_report.LIGHTS["steady"]})
    arguments = ["--num=5", "--workers=0", f"--workdir={tmp_path / 'run'}", f"--json={tmp_path / 'a.json'}"]
    assert prune_report.main(arguments) == 0
    result = json.loads((tmp_path / "a.json").read_text())
    judged = [section for section in result["sections"] if section["judged"]]
    assert [(s["light"], s["pooling"]) for s in judged] == [("steady", "patches")] and result["passed"]
    assert set(judged[0]["areas"]) == {"still over slow", "still over busy", "slow over busy"}
    for area in judged[0]["areas"].values():
        assert area["low"] < 0.95 < area["auc"] <= area["high"]
    assert judged[0]["kept_of_the_least_redundant_third"] == {"still": 0, "slow": 0, "busy": 1}
    assert "| steady | patches | " in capsys.readouterr().out


def test_a_tower_that_sees_nothing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Blind:
        image_size, dtype, fingerprint = 8, "float32", "blind"

        def __call__(self, frames: np.ndarray) -> np.ndarray:
            return np.random.default_rng(int(frames.sum())).standard_normal((len(frames), 4))

    monkeypatch.setattr(prune_run, "load_encoder", lambda *arguments: Blind())
    monkeypatch.setattr(prune_report, "LIGHTS", {"steady": prune_report.LIGHTS["steady"]})
    assert prune_report.main(["--num=2", "--workers=0", f"--workdir={tmp_path}"]) == 1
    assert json.loads((tmp_path / "result.json").read_text())["passed"] is False


def test_bad_arguments_end_with_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        prune_report.main(["--num=1"])
    assert stopped.value.code == 2 and "2 videos of each motion" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_as_documented_meets_its_bar(tmp_path: Path) -> None:
    assert prune_report.main([f"--workdir={tmp_path}", "--num=60", "--seed=32"]) == 0
