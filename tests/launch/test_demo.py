"""The demo's video and truth come from the generated world, by the command that docs/tiny.md gives."""

import json

import pytest

from launch import demo
from launch.demo import TRUTH, VIDEO
from launch.synthesize import main
from vxlpro_jax.data.synthetic import sample_video
from vxlpro_jax.data.synthetic_files import truth_rows
from vxlpro_jax.data.synthetic_questions import sample_questions

SEED, LENGTH_S = 352, 132


def test_the_truth_is_the_worlds():
    rows = truth_rows(sample_questions(sample_video(SEED, 0, LENGTH_S)), VIDEO.name)
    assert rows == json.loads(TRUTH.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_video_is_what_the_command_writes(tmp_path):
    main(f"--seed {SEED} --num 1 --length-s {LENGTH_S} --size 288x288 --fps 8 --crf 26 --out {tmp_path}".split())
    assert (tmp_path / "00000.mp4").read_bytes() == VIDEO.read_bytes()


def test_a_result_that_cannot_be_written_is_a_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "run", lambda *arguments: {"answers": []})
    monkeypatch.setattr(demo, "show", lambda report: None)
    monkeypatch.setattr("sys.argv", ["demo", "--json", f"{tmp_path}/none/out.json"])
    assert demo.main() == 2
    assert capsys.readouterr().err.startswith("demo: [Errno 2] No such file")
