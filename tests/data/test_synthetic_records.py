"""Generated training data: valid records whose relevant seconds show what is asked about."""

from pathlib import Path

import numpy as np
from PIL import Image

from vxlpro_jax.data.records import parse_record
from vxlpro_jax.data.synthetic import sample_video
from vxlpro_jax.data.synthetic_questions import QUESTION_KINDS, sample_questions
from vxlpro_jax.data.synthetic_records import video_records, write_pictures


def test_a_record_for_every_question():
    for index in range(20):
        video = sample_video(3, index, 64, "standard" if index % 2 else "busy")
        raws = video_records(video, "00001.mp4", per_kind=2)
        assert [raw["kind"] for raw in raws] == [kind for kind in QUESTION_KINDS for _ in range(2)]
        for raw, question in zip(raws, sample_questions(video, 2), strict=True):
            record = parse_record(raw, "a", 1, "/root")
            assert record.turns == ((question.question, question.answer),) and record.media == ("/root/00001.mp4",)
            assert (question.start_s, question.end_s) in record.relevant_s
            if question.kind == "first":
                assert len(record.relevant_s) >= 2, "both cards have to be seen"
            else:
                assert len(record.relevant_s) == 1
        assert len({raw["id"] for raw in raws}) == len(raws)


def test_pictures_show_the_card_that_is_asked_about(tmp_path: Path):
    video = sample_video(3, 0, 64)
    raws = list(write_pictures(video, tmp_path, "00000", (48, 64)))
    assert [raw["kind"] in ("shape", "digit", "colour") for raw in raws] == [True, True]
    for raw in raws:
        record = parse_record(raw, "a", 1, tmp_path)
        assert record.media_kind == "image" and record.relevant_s is None
        pixels = np.asarray(Image.open(record.media[0]))
        assert pixels.shape == (48, 64, 3) and (pixels.min(-1) > 230).mean() > 0.005, "a white card is in sight"
        event = next(event for event in video.events if record.turns[0][1] in (event.glyph, event.colour))
        assert event.kind in ("shape_card", "digit_card")
    assert not list(tmp_path.glob(".part-*"))
