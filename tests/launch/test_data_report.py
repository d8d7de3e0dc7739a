"""The data report: figures that can be reckoned by hand, a picture, and code 1 for text that does not fit."""

import json

import numpy as np
import pytest
from PIL import Image

from launch import data_report
from tests.data.feed_setup import LENGTHS_S

TINY = [
    "--config.preset=tiny",
    "--config.data.prompt=question",
    "--config.data.sampling.short_s=40.0",
    "--config.data.sampling.short_fps=(0.5,)",
    "--config.data.sampling.long_fps=0.25",
]


def run(small_set, tmp_path, *more: str):
    code = data_report.main([f"--config={small_set}", *TINY, f"--workdir={tmp_path / 'run'}", *more])
    return code, json.loads((tmp_path / "run" / "data_report.json").read_text())


def test_figures_are_those_of_the_set(small_set, tmp_path):
    code, result = run(small_set, tmp_path, f"--json={tmp_path / 'also.json'}")
    assert code == 0 and json.loads((tmp_path / "also.json").read_text()) == result
    assert (result["records"], result["usable"], result["videos"]["number"]) == (40, 40, 5)
    assert result["videos"]["records"] == 30
    assert result["videos"]["hours"] == pytest.approx(sum(LENGTHS_S) / 3600)
    assert result["videos"]["duration_s"]["mean"] == pytest.approx(np.mean(LENGTHS_S))
    edges, counts = result["videos"]["histogram_edges_s"], result["videos"]["histogram"]
    assert {edge: count for edge, count in zip(edges, counts, strict=False) if count} == {30: 4, 60: 1}
    frames = result["videos"]["frames"]
    assert frames["this run"]["max"] == 18.0, "36 s at half a frame a second"
    assert frames["fixed 0.25 frames/s"]["max"] == 15.0, "60 s at a quarter"
    assert (
        result["samples"] >= 40 and sum(bucket["samples"] for bucket in result["buckets"].values()) == result["samples"]
    )
    text = result["text"]
    assert 0 < text["target_share_of_rows"] < text["target_share_of_text"] < 0.5
    assert text["text_tokens"]["max"] < 48 and text["too_long"] == 0
    page = (tmp_path / "run" / "data_report.md").read_text()
    assert "30 of them on 5 videos (0.06 hours, each file counted once)" in page
    assert Image.open(tmp_path / "run" / "data_report.png").size[0] > 500


def test_text_without_room_ends_with_code_1(small_set, tmp_path, capsys):
    code, result = run(small_set, tmp_path, "--config.data.buckets.g8.text_len=20")
    assert code == 1 and not result["fits"] and result["text"]["too_long"] > 10
    assert "too long for their bucket" in capsys.readouterr().err


def test_pixels_alone_have_no_text(small_set, tmp_path):
    code, result = run(small_set, tmp_path, "--config.data.prompt=none", "--config.data.sampling.clip_frames=8")
    assert code == 0 and result["text"] is None and result["buckets"]["g8"]["samples"] >= 40


@pytest.mark.parametrize(("more", "said"), [([], "--workdir=DIR"), (["--workdir=x", "--samples=few"], "a number")])
def test_bad_arguments_end_with_code_2(small_set, more, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        data_report.main([f"--config={small_set}", *more])
    assert stopped.value.code == 2 and said in capsys.readouterr().err
