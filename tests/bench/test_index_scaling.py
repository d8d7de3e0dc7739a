"""The claims about an index's memory and overlap can fail; the run itself is in the slow suite."""

import json

import pytest

from bench.index_scaling import fitted, judged, main


def _runs(bytes_per_frame: int, device_bytes: int = 7) -> list[dict[str, int]]:
    return [
        {
            "frames": frames,
            "peak_bytes": 10**8 + bytes_per_frame * frames,
            "index_bytes": 1000 * frames,
            "device_bytes": device_bytes * (frames if device_bytes < 0 else 1),
        }
        for frames in (256, 1024, 4096)
    ]


def test_memory():
    line = fitted(_runs(1040), 0)
    assert line["holds"] and line["bytes_per_frame"] == 1040 and line["index_bytes_per_frame"] == 1000
    assert line["base_bytes"] == pytest.approx(10**8, abs=9) and line["ratio"] == 1.04
    assert not fitted(_runs(1060), 0)["holds"]
    assert fitted(_runs(1060), 20)["holds"]
    assert not fitted(_runs(1040, device_bytes=-1), 0)["holds"]


def test_overlap():
    runs = [{"ratio": ratio} for ratio in (1.0, 1.04, 3.0)]
    assert judged(runs, 1.05)["holds"] and judged(runs, 1.05)["median_ratio"] == 1.04
    assert not judged(runs, 1.03)["holds"]


@pytest.mark.parametrize("wrong", [["--frames", "256"], ["--frames", "8,16"], ["--rounds", "0"], ["--only", "speed"]])
def test_bad_arguments(wrong, capsys):
    with pytest.raises(SystemExit) as end:
        main(wrong)
    assert end.value.code == 2 and wrong[0] in capsys.readouterr().err


@pytest.mark.slow
def test_a_short_run(tmp_path):
    main(["--only", "memory", "--frames", "256,1024", "--json", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())["memory"]
    assert set(found) == {"full, kept", "full, written", "tiny, kept", "tiny, written"}
    assert all(len(case["runs"]) == 2 for case in found.values())
    assert found["full, kept"]["index_bytes_per_frame"] == 147456
