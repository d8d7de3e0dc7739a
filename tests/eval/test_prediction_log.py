"""Nothing that was answered is lost, nothing that belongs to another run is taken."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.eval.fake_world import Sums
from vxlpro_jax.eval.benchmark import Prediction
from vxlpro_jax.eval.prediction_log import PredictionLog

HEADER = {"seed": 3, "size": (2, 4)}
SAMPLES = Sums().samples()


def predict(number: int, text: str = "a") -> Prediction:
    return Prediction(
        SAMPLES[number], text, ((0.0, 4.0, 0.5),), 9, {"accuracy": 1.0}, "the prompt" if number == 0 else ""
    )


def test_what_was_appended_is_found_again(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path / "deep" / "x.jsonl", HEADER)
    for number in range(3):
        log.append(predict(number, f"täxt {number}\n"))
    found = PredictionLog(log.path, HEADER).find(SAMPLES)
    assert found == {SAMPLES[n].key: predict(n, f"täxt {n}\n") for n in range(3)}
    assert log.find(SAMPLES) == found


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_last_line_is_cut_off(tmp_path: Path, cut: int) -> None:
    log = PredictionLog(tmp_path / "x.jsonl", HEADER)
    log.append(predict(0))
    whole = log.path.read_bytes()
    log.append(predict(1))
    log.path.write_bytes(log.path.read_bytes()[:-cut])
    again = PredictionLog(log.path, HEADER)
    assert list(again.find(SAMPLES)) == [SAMPLES[0].key]
    assert log.path.read_bytes() == whole
    again.append(predict(2))
    assert list(PredictionLog(log.path, HEADER).find(SAMPLES)) == [SAMPLES[0].key, SAMPLES[2].key]


def test_a_torn_header_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"header": {"se')
    PredictionLog(path, HEADER).append(predict(0))
    assert len(PredictionLog(path, HEADER).find(SAMPLES)) == 1


def test_another_runs_predictions_are_refused(tmp_path: Path) -> None:
    path = PredictionLog(tmp_path / "x.jsonl", HEADER).path
    with pytest.raises(ValueError, match=r"seed: 3 there, 4 now.*name another folder"):
        PredictionLog(path, {**HEADER, "seed": 4})
    with pytest.raises(ValueError, match="fps: None there, 1.0 now"):
        PredictionLog(path, {**HEADER, "fps": 1.0})


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path / "x.jsonl", HEADER)
    log.append(predict(0))
    lines = log.path.read_text().splitlines()
    for damaged in ("{", "[]", '"text"', json.dumps({"key": "0/0"})):
        log.path.write_text("\n".join([lines[0], damaged, lines[1]]) + "\n")
        with pytest.raises(ValueError, match=r"x.jsonl:2 is no line of predictions"):
            PredictionLog(log.path, HEADER)
    log.path.write_text(lines[1] + "\n")
    with pytest.raises(ValueError, match="does not begin with the header"):
        PredictionLog(log.path, HEADER)


@pytest.mark.parametrize("change", [{"question": "other?"}, {"truth": "5"}, {"video": "v9"}])
def test_a_changed_sample_is_asked_again(tmp_path: Path, change: dict[str, str]) -> None:
    log = PredictionLog(tmp_path / "x.jsonl", HEADER)
    log.append(predict(0))
    assert log.find([replace(SAMPLES[0], **change)]) == {}


def test_the_later_of_two_lines_counts(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path / "x.jsonl", HEADER)
    log.append(predict(0, "first"))
    log.append(predict(0, "second"))
    assert PredictionLog(log.path, HEADER).find(SAMPLES)[SAMPLES[0].key].answer == "second"
