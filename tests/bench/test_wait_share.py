"""The share is of time, not of steps; the exit code says whether it is small enough."""

import json

import pytest

from bench import wait_share
from bench.wait_share import waited


def test_the_second_half_counts_and_long_steps_count_more():
    lines = [{"wait_share": 1.0, "steps_per_s": 0.01}] * 2
    lines += [{"wait_share": 0.5, "steps_per_s": 1.0}, {"wait_share": 0.0, "steps_per_s": 0.25}]
    assert waited(lines) == {"wait_share": 0.1, "steps_per_s": 0.4}


@pytest.mark.parametrize(("share", "code"), [(0.09, 0), (0.11, 1)])
def test_the_exit_code_says_whether_steps_wait(share, code, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(wait_share, "write_set", lambda folder, num_videos: folder)
    monkeypatch.setattr(
        wait_share, "measure", lambda annotations, workers, *_: {"wait_share": share if workers == 2 else 0.5}
    )
    assert wait_share.main(["--json", str(tmp_path / "out.json")]) == code
    assert json.loads((tmp_path / "out.json").read_text())["workers"]["2"]["wait_share"] == share
    assert wait_share.main(["--json", str(tmp_path / "none" / "out.json")]) == 2
    assert "bench.wait_share: [Errno 2]" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--workers", "two"], ["--steps", "1"]])
def test_wrong_arguments_are_told(wrong):
    with pytest.raises(SystemExit) as ended:
        wait_share.main(wrong)
    assert ended.value.code == 2
