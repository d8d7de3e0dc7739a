"""The synthesize command: files, truth, and refusals with exit code 2."""

import json

import av
import pytest

from launch import synthesize
from vxlpro_jax.data.records import Record, read_records
from vxlpro_jax.data.video_decode import open_video


def test_writes_videos_and_truth(tmp_path):
    arguments = [
        "--seed",
        "3",
        "--num",
        "2",
        "--out",
        str(tmp_path),
        "--length-s",
        "32",
        "--size",
        "64x36",
        "--fps",
        "2",
    ]
    assert synthesize.main([*arguments, "--questions-per-kind", "2"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 6 * 2
    for name in ("00000.mp4", "00001.mp4"):
        with av.open(str(tmp_path / name)) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height, stream.frames) == (64, 36, 64)


@pytest.mark.parametrize("name", ["train.jsonl", "train.json"])
def test_writes_training_data(tmp_path, name):
    arguments = ["--seed", "3", "--num", "2", "--out", str(tmp_path), "--length-s", "32", "--size", "64x36"]
    assert synthesize.main([*arguments, "--llava", str(tmp_path / name), "--pictures"]) == 0
    records = list(read_records(tmp_path / name, tmp_path))
    assert all(isinstance(record, Record) for record in records)
    assert [record.media_kind for record in records] == (["video"] * 6 + ["image"] * 2) * 2
    assert len({record.id for record in records}) == len(records)
    for record in records:
        with open_video(record.media[0]) as video:
            assert (video.width, video.height) == (64, 36)


@pytest.mark.parametrize("more", [["--pictures"], ["--size", "64"], ["--world", "desert"], ["--num", "x"]])
def test_bad_arguments_end_with_code_2(tmp_path, more, capsys):
    with pytest.raises(SystemExit) as stopped:
        synthesize.main(["--seed", "1", "--num", "1", "--out", str(tmp_path), *more])
    assert stopped.value.code == 2 and capsys.readouterr().err


def test_impossible_videos_are_told(tmp_path, capsys):
    assert synthesize.main(["--seed", "1", "--num", "1", "--out", str(tmp_path), "--length-s", "8"]) == 2
    assert "length_s=8" in capsys.readouterr().err
