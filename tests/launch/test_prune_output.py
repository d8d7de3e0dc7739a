"""The table holds every video and task with its types, and the report says what was kept and why."""

from pathlib import Path

import pyarrow.parquet as parquet
from PIL import Image

from launch.prune_output import SCORE_TABLE, SubsetResult, draw_histogram, report_text, write_score_table
from vxlpro_jax.data.pruning import KeptVideos, SubsetRule

KEPT = {
    "captioning": KeptVideos(frozenset({"a"}), 0.25),
    "multiple_choice": KeptVideos(frozenset(), None),
    "open_ended": KeptVideos(frozenset({"a", "b"}), 0.75),
}
SCORED = {"bytes": 9, "num_frames": 20, "num_lost": 1, "duration_s": 4.5}
ROWS = {
    "a": {"video": "a", "similarity": 0.25, **SCORED},
    "b": {"video": "b", "similarity": 0.75, **SCORED},
    "c": {"video": "c", "bytes": None, "broken": "no such file"},
}
VIDEOS = {"a": {"captioning": 2, "open_ended": 1}, "b": {"open_ended": 3}, "c": {"multiple_choice": 1}}
RESULTS = [
    SubsetResult("captioning", SubsetRule("threshold", 0.5), 1, 0, 1, 2, 2, 0.25, (0.25,)),
    SubsetResult("multiple_choice", SubsetRule("share", 0.5), 1, 1, 0, 1, 0, None, ()),
    SubsetResult("open_ended", SubsetRule("all", 0.0), 2, 0, 2, 4, 4, 0.75, (0.25, 0.75)),
]
SUMMARY = {
    "scoring": {"num_frames": 20, "pooling": "mean"},
    "model": "embedded",
    "num_videos": 3,
    "num_broken_videos": 1,
    "num_records_without_video": 5,
    "num_faulty_records": 30,
    "files": [{"from": "x.json", "to": "kept/x.json", "num_records_kept": 11}],
}


def test_the_table_has_a_line_for_each_video_and_task(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    write_score_table(path, VIDEOS, ROWS, KEPT)
    table = parquet.read_table(path)
    assert table.schema.equals(SCORE_TABLE)
    lines = table.to_pylist()
    assert [(line["video"], line["task"], line["num_records"], line["kept"]) for line in lines] == [
        ("a", "captioning", 2, True),
        ("a", "open_ended", 1, True),
        ("b", "open_ended", 3, True),
        ("c", "multiple_choice", 1, False),
    ]
    assert lines[3]["broken"] == "no such file" and lines[3]["similarity"] is None
    assert lines[2]["similarity"] == 0.75 and lines[2]["broken"] is None and lines[2]["duration_s"] == 4.5
    first = path.read_bytes()
    write_score_table(path, VIDEOS, ROWS, KEPT)
    assert path.read_bytes() == first and list(tmp_path.iterdir()) == [path]


def test_the_report_says_what_was_kept_and_lists_what_is_broken() -> None:
    faults = [{"source": "x.json", "line": line, "reason": "not JSON"} for line in range(1, 31)]
    text = report_text(RESULTS, SUMMARY, [{"video": "c", "reason": "no such file"}], faults)
    assert "| captioning | threshold 0.5 | 1 | 0 | 1 | 2 | 2 | 0.2500 | 0.250 0.250 0.250 |" in text
    assert "| multiple_choice | share 0.5 | 1 | 1 | 0 | 1 | 0 |  |  |" in text
    assert "| open_ended | all | 2 | 0 | 2 | 4 | 4 | 0.7500 | 0.375 0.500 0.625 |" in text
    assert "- c: no such file" in text and "- x.json:20: not JSON" in text
    assert "x.json:21" not in text and "and 10 more" in text
    assert "5 records without a video are kept" in text and "| x.json | kept/x.json | 11 |" in text


def test_the_picture_is_the_same_again_and_has_a_panel_for_each_subset(tmp_path: Path) -> None:
    path = tmp_path / "similarity.png"
    draw_histogram(path, RESULTS)
    first = path.read_bytes()
    with Image.open(path) as two_panels:
        height = two_panels.height
    draw_histogram(path, RESULTS)
    assert path.read_bytes() == first
    draw_histogram(path, RESULTS[:1])
    with Image.open(path) as one_panel:
        assert height == 2 * one_panel.height
    draw_histogram(path, [])
    assert list(tmp_path.iterdir()) == [path]
