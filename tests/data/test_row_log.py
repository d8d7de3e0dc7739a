"""Rows survive a kill, and those of another run are refused; tests/eval/test_prediction_log.py asks for more of it."""

from pathlib import Path

import pytest

from vxlpro_jax.data.row_log import RowLog


def test_rows_are_found_again_in_order_with_their_lines(tmp_path: Path) -> None:
    log = RowLog(tmp_path / "deep" / "x.jsonl", {"size": (2, 4)}, "scores")
    for number in range(3):
        log.append({"name": f"täxt {number}\n"}, sync=number == 1)
    again = RowLog(log.path, {"size": (2, 4)}, "scores")
    assert list(again.numbered()) == [(n + 2, {"name": f"täxt {n}\n"}) for n in range(3)]
    lines = log.path.read_text().splitlines()
    assert lines[again.rows.index({"name": "täxt 2\n"}) + 1] == lines[3]


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_a_torn_last_line_is_cut_off_and_written_anew(tmp_path: Path, cut: int) -> None:
    log = RowLog(tmp_path / "x.jsonl", {}, "scores")
    log.append({"a": 1})
    whole = log.path.read_bytes()
    log.append({"b": 12345})
    log.path.write_bytes(log.path.read_bytes()[:-cut])
    again = RowLog(log.path, {}, "scores")
    assert again.rows == [{"a": 1}] and log.path.read_bytes() == whole


def test_another_runs_rows_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = RowLog(tmp_path / "x.jsonl", {"model": "a"}, "scores").path
    with pytest.raises(ValueError, match=r"holds scores of another run \(model: 'a' there, 'b' now\)"):
        RowLog(path, {"model": "b"}, "scores")
    path.write_text('{"header": {"model": "a"}}\n[1]\n')
    with pytest.raises(ValueError, match=r"x.jsonl:2 is no line of scores"):
        RowLog(path, {"model": "a"}, "scores")
    path.write_text('{"model": "a"}\n')
    with pytest.raises(ValueError, match="does not begin with the header of scores"):
        RowLog(path, {"model": "a"}, "scores")


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = RowLog(tmp_path / "x.jsonl", {}, "scores")
    monkeypatch.setattr("os.write", lambda descriptor, line: len(line) - 3)
    with pytest.raises(OSError, match="is the disk full"):
        log.append({"a": 1})
