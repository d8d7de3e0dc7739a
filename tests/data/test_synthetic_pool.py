"""The pool for Table 7: six true questions a video, and the redundant part is redundant."""

from pathlib import Path

import numpy as np

from vxlpro_jax.data.records import Record, parse_record, read_records, write_records
from vxlpro_jax.data.synthetic import GROUP_S, sample_video
from vxlpro_jax.data.synthetic_pool import CATALOGUE, LENGTH_S, SIZE, draw_redundant, write_pool
from vxlpro_jax.data.synthetic_questions import QUESTION_KINDS, sample_questions, score_answer
from vxlpro_jax.data.tokenizer import load_tokenizer
from vxlpro_jax.data.video_decode import open_video
from vxlpro_jax.loading import EMBEDDED


def test_every_video_has_six_questions_and_is_written_once(tmp_path: Path) -> None:
    worlds = {"busy": 1, "still": 1, "slow": 1}
    raw = [record for records in write_pool(tmp_path, 7, worlds) for record in records]
    write_records(tmp_path / "train.jsonl", raw)
    found = list(read_records(tmp_path / "train.jsonl", tmp_path))
    assert all(isinstance(record, Record) for record in found) and len(found) == 18
    names = ["busy_00000.mp4", "slow_00000.mp4", "still_00000.mp4"]
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == names
    assert [record["kind"] for record in raw[:6]] == list(QUESTION_KINDS)
    with open_video(tmp_path / "still_00000.mp4") as video:
        assert (video.num_frames, (video.height, video.width)) == (LENGTH_S, SIZE)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.mp4")}
    more = [record for records in write_pool(tmp_path, 7, {"still": 2}) for record in records]
    assert more[:6] == raw[6:12] and all(path.stat().st_mtime_ns == at for path, at in written.items())


def test_a_redundant_video_shows_its_card_all_the_time() -> None:
    kinds = set()
    for index in range(12):
        video, questions = draw_redundant(7, index, "still")
        (card,) = video.events
        assert video.rate == 0 and (card.start_s, card.end_s) == (0, LENGTH_S)
        kinds |= {question.kind for question in questions}
        assert all(question.answer in (card.glyph, card.colour, "at 0000 s") for question in questions)
    assert kinds == {"shape", "digit", "colour", "when"}


def test_answers_are_catalogue_numbers_of_one_token_each(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(EMBEDDED)
    assert len(set(CATALOGUE.values())) == len(CATALOGUE) == 30
    assert all(len(tokenizer.encode(number)) == 1 for number in CATALOGUE.values())
    (records,) = write_pool(tmp_path, 7, {"busy": 1})
    names = {number: name for name, number in CATALOGUE.items()}
    for record, question in zip(records, sample_questions(sample_video(7, 0, LENGTH_S, "busy")), strict=True):
        answer = record["conversations"][1]["value"]
        assert (
            question.kind == "when" or names[answer] == question.answer.split()[-1 if question.kind != "first" else 1]
        )


def test_times_are_those_of_groups_and_spans_cover_the_event(tmp_path: Path) -> None:
    (records,) = write_pool(tmp_path, 7, {"busy": 1})
    events = sample_video(7, 0, LENGTH_S, "busy").events
    when = parse_record(next(record for record in records if record["kind"] == "when"), "x", 1)
    assert when.relevant_s is not None
    ((start_s, end_s),) = when.relevant_s
    assert (start_s, end_s) in [(event.start_s, event.end_s) for event in events]
    answer = when.turns[0][1]
    assert score_answer("when", answer, f"at {start_s:04.0f} s") and int(answer.split()[1]) % GROUP_S == 0
    assert np.isclose(int(answer.split()[1]), start_s // GROUP_S * GROUP_S)
