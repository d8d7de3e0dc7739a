"""A run asks everything once, goes on after a kill, and counts what is broken."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.eval.fake_world import OPTIONS, FakeModel, Sums, add
from vxlpro_jax.eval.benchmark import ACCURACY, VideoSource
from vxlpro_jax.eval.harness import Result, run_benchmark

KNOBS = {"fingerprint": "abc"}


def run(benchmark: Sums, model: FakeModel, folder: Path, options=OPTIONS, knobs=KNOBS) -> Result:
    return run_benchmark(benchmark, model, folder, options, knobs, lambda index, question: f"<{question}>")


def test_each_video_is_indexed_once_and_every_question_asked_once(tmp_path: Path) -> None:
    model = FakeModel(add)
    result = run(Sums(), model, tmp_path)
    assert [path.stem for path in model.indexed] == ["v0", "v1", "v2", "v3"]
    assert [len(questions) for questions in model.asked] == [2, 1] * 4
    assert [p.sample for p in result.predictions] == Sums().samples()
    assert {row.name: row.value for row in result.rows}["all"] == 1.0
    assert result.knobs["fps"] == 1.0 and result.knobs["fingerprint"] == "abc" and result.knobs["level"] == 1
    assert result.knobs["prompt of sample 0"] == "<how much is 0 + 0?>"
    assert len((tmp_path / "sums.jsonl").read_text().splitlines()) == 1 + 12


def test_options_reach_the_model(tmp_path: Path) -> None:
    model = FakeModel(add)
    run(Sums(1), model, tmp_path, replace(OPTIONS, fps=2.0, max_frames=32))
    assert model.options == [{"fps": 2.0, "max_frames": 32}]
    model = FakeModel(add)
    run(Sums(1), model, tmp_path / "other")
    assert model.options == [{"fps": 1.0, "max_frames": None}]


@pytest.mark.parametrize("dies_at", [0, 1, 4, 7])
def test_a_killed_run_goes_on(tmp_path: Path, dies_at: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Sums(), FakeModel(add, dies_at=dies_at), tmp_path)
    model = FakeModel(add)
    result = run(Sums(), model, tmp_path)
    whole = run(Sums(), FakeModel(add), tmp_path / "whole")
    assert result.predictions == whole.predictions and result.rows == whole.rows
    assert result.knobs == whole.knobs
    assert len(model.asked) == 8 - dies_at
    assert result.num_resumed == sum([2, 1] * 4) - sum(len(questions) for questions in model.asked)
    nothing_left = FakeModel(add)
    assert run(Sums(), nothing_left, tmp_path).predictions == whole.predictions
    assert nothing_left.indexed == []


def test_more_videos_of_the_same_run_are_added(tmp_path: Path) -> None:
    run(Sums(2), FakeModel(add), tmp_path)
    model = FakeModel(add)
    result = run(Sums(3), model, tmp_path)
    assert [path.stem for path in model.indexed] == ["v2"]
    assert len(result.predictions) == 9


def test_another_model_is_not_mixed_in(tmp_path: Path) -> None:
    run(Sums(2), FakeModel(add), tmp_path)
    with pytest.raises(ValueError, match="fingerprint: 'abc' there, 'other' now"):
        run(Sums(2), FakeModel(add), tmp_path, knobs={"fingerprint": "other"})


def test_broken_videos_are_skipped_counted_and_tried_again(tmp_path: Path) -> None:
    result = run(Sums(broken=(1, 3)), FakeModel(add), tmp_path)
    assert [(b.video, b.num_questions) for b in result.broken] == [("v1", 3), ("v3", 3)]
    assert "is broken" in result.broken[0].reason
    assert {p.sample.video for p in result.predictions} == {"v0", "v2"}
    assert {row.name: row.n for row in result.rows}["all"] == 6
    mended = run(Sums(), FakeModel(add), tmp_path)
    assert not mended.broken and len(mended.predictions) == 12


def test_an_error_that_is_no_videos_fault_is_not_swallowed(tmp_path: Path) -> None:
    def fail(question: str, source: object) -> str:
        raise RuntimeError("the model is wrong")

    with pytest.raises(RuntimeError, match="the model is wrong"):
        run(Sums(), FakeModel(fail), tmp_path)


def test_videos_made_for_the_run_are_deleted_unless_kept(tmp_path: Path) -> None:
    run(Sums(), FakeModel(add), tmp_path)
    assert list((tmp_path / "videos").iterdir()) == []
    run(Sums(), FakeModel(add), tmp_path / "kept", replace(OPTIONS, keep_videos=True))
    assert len(list((tmp_path / "kept" / "videos").iterdir())) == 4


def test_files_that_were_there_before_are_never_deleted(tmp_path: Path) -> None:
    class Own(Sums):
        def open_video(self, video: str, folder: Path) -> VideoSource:
            return replace(super().open_video(video, folder), is_temporary=False)

    run(Own(), FakeModel(add), tmp_path)
    assert len(list((tmp_path / "videos").iterdir())) == 4


def test_frames_are_indexed_in_place_of_their_file(tmp_path: Path) -> None:
    frames, times_s = np.zeros((2, 4, 4, 3), np.uint8), np.array([0.0, 7.0])

    class Frames(Sums):
        def open_video(self, video: str, folder: Path) -> VideoSource:
            return replace(super().open_video(video, folder), frames=frames, times_s=times_s)

    model = FakeModel(add)
    run(Frames(1), model, tmp_path)
    assert model.indexed[0] is frames and model.options[0]["times_s"] is times_s
    assert list((tmp_path / "videos").iterdir()) == []


def test_keys_must_be_unique(tmp_path: Path) -> None:
    class Twice(Sums):
        def samples(self):
            return super().samples() * 2

    with pytest.raises(ValueError, match=r"sample keys \['0/0'"):
        run(Twice(), FakeModel(add), tmp_path)


def test_empty_answers_are_counted(tmp_path: Path) -> None:
    result = run(Sums(2), FakeModel(lambda question, source: "!!!" if "0 +" in question else "4"), tmp_path)
    assert result.num_empty == 3


def test_predictions_are_plain_json_lines(tmp_path: Path) -> None:
    run(Sums(1), FakeModel(add), tmp_path)
    header, first, *_ = [json.loads(line) for line in (tmp_path / "sums.jsonl").read_text().splitlines()]
    assert header["header"]["benchmark"] == "sums"
    assert first["answer"] == "0" and first["evidence"] == [[4.0, 8.0, 1.0]] and first["metrics"] == {"accuracy": 1.0}


def test_a_question_that_needs_the_answer_before_it(tmp_path: Path) -> None:
    class Steps(Sums):
        def samples(self):
            first, *rest = super().samples()
            return [replace(first, then=("how much is {answer} + 5?", "how much is {answer} + 7?")), *rest]

        def score(self, sample, answer, evidence, index):
            return {ACCURACY: float(answer == ("0 > 5 > 12" if sample.then else sample.truth))}

        def score_kept(self, sample, kept_groups):
            return {"kept": float(2 in kept_groups)}

    model = FakeModel(add)
    result = run(Steps(1), model, tmp_path)
    asked = [["how much is 0 + 0?", "how much is 0 + 1?"], ["how much is 0 + 5?"], ["how much is 5 + 7?"]]
    assert model.asked == [*asked, ["how much is 0 + 2?"]]
    assert [p.metrics for p in result.predictions] == [{"accuracy": 1.0, "kept": 1.0}] * 3


def test_a_benchmark_may_make_its_indexes_and_remark_on_them(tmp_path: Path) -> None:
    class Made(Sums):
        def open_video(self, video, folder):
            return VideoSource(make_index=lambda index: index(video, extra=1))

        def remarks(self, predictions):
            return (f"{len(predictions)} in all",)

    model = FakeModel(add)
    result = run(Made(1), model, tmp_path)
    assert model.indexed == ["v0"] and model.options == [{"fps": 1.0, "max_frames": None, "extra": 1}]
    assert result.remarks == ("3 in all",) and result.grid is None
