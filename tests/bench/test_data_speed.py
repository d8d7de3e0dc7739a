"""What is wrong is a line and exit code 2; nothing is written unless a file is named."""

import pytest

from bench import data_speed


@pytest.mark.parametrize("wrong", [["--workers", "0,two"], ["--rounds", "0"]])
def test_wrong_arguments_are_told(wrong, capsys):
    with pytest.raises(SystemExit) as ended:
        data_speed.main(wrong)
    assert ended.value.code == 2 and wrong[0] in capsys.readouterr().err


def test_a_result_goes_where_it_is_told_to(tmp_path, capsys, monkeypatch):
    way = [{"seconds": 1.0, "samples_per_s": 1.0, "frames_per_s": 2.0, "cpu_s_per_frame": 0.1}]
    monkeypatch.setattr(data_speed, "measure", lambda args: data_speed.write_result({"feed, 0 workers": way}, args))
    assert data_speed.main([]) == 0
    assert data_speed.main(["--json", str(tmp_path / "out.json")]) == 0 and (tmp_path / "out.json").exists()
    assert data_speed.main(["--json", str(tmp_path / "none" / "out.json")]) == 2
    assert capsys.readouterr().err.startswith("bench.data_speed: [Errno 2]")
