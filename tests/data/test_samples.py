"""Samples: true pixels and times, what is relevant, pictures as tiles, text that fits."""

import tracemalloc
from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import Image

from tests.data.feed_setup import SAMPLING, SHAPE, tokenize
from vxlpro_jax.data.frame_sampling import SamplingConfig
from vxlpro_jax.data.image_transforms import anyres_views, stretch
from vxlpro_jax.data.records import Record, parse_record, read_records
from vxlpro_jax.data.samples import SampleMaker, longest_stamp
from vxlpro_jax.data.video_decode import open_video
from vxlpro_jax.types import IGNORE_LABEL, VIDEO_MARK

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A card."}]
STAMP_LEN = len(tokenize("t0000"))
EVERY_SECOND = SamplingConfig("variable", 1e9, (1.0,), 1.0, 64, 0)


def maker(prompt="conversation", sampling=SAMPLING, highest=1.0, **shape) -> SampleMaker:
    return SampleMaker(replace(SHAPE, **shape), sampling, prompt, highest, tokenize, STAMP_LEN)


def room(num_groups: int, tile: int = SHAPE.image_size) -> np.ndarray:
    return np.full((num_groups * SHAPE.frames_per_group, tile, tile, 3), 77, np.uint8)


def record_of(raw: dict, root) -> Record:
    return parse_record({"conversations": TURNS} | raw, "a.jsonl", 1, root)


def spelled(ids) -> str:
    """Stamps are digits after a t: read back by trying."""
    return next(text for text in (f"t{n:04d}" for n in range(100)) if tokenize(text) == list(ids))


def test_video_frames_are_those_of_its_times(small_set):
    record = record_of({"video": "0.mp4"}, small_set.parent)
    out = room(10)
    sample = maker(sampling=EVERY_SECOND).make(record, 5, 64, out)
    assert sample.num_groups == 8 and sample.rounds_dropped == 0
    with open_video(record.media[0]) as video:
        wanted = [int(np.argmin(np.abs(video.times_s - second))) for second in range(32)]
        np.testing.assert_array_equal(out[:32], stretch(video.read(wanted), SHAPE.image_size))
    assert [spelled(stamp) for stamp in sample.stamps[0]] == [f"t{4 * group:04d}" for group in range(8)]
    assert not out[32:].any(), "what is left of the bucket is black"
    scaled = maker(sampling=EVERY_SECOND).make(record_of({"video": "0.mp4", "scale": 2}, small_set.parent), 5, 64, out)
    assert [spelled(stamp) for stamp in scaled.stamps[0]] == [f"t{8 * group:04d}" for group in range(8)]


def test_relevant_groups_show_what_is_asked(small_set):
    spans = [[5.5, 6.2], [29, 40]]
    sample = maker(sampling=EVERY_SECOND).make(
        record_of({"video": "0.mp4", "relevant_s": spans, "scale": 3}, small_set.parent), 5, 64, room(8)
    )
    assert np.flatnonzero(sample.relevant).tolist() == [1, 7], "on the clock of the file, whatever the scale"
    between = maker(sampling=EVERY_SECOND).make(
        record_of({"video": "0.mp4", "relevant_s": [[5.2, 5.8]]}, small_set.parent), 5, 64, room(8)
    )
    assert not between.relevant.any(), "no frame shows it"


def test_a_smaller_bucket_takes_frames_evenly_and_stamps_stay_true(small_set):
    record = record_of({"video": "4.mp4"}, small_set.parent)
    sample = maker(sampling=EVERY_SECOND).make(record, 5, 64, room(2))
    assert sample.num_groups == 2
    times = [int(spelled(stamp)[1:]) for stamp in sample.stamps[0]]
    assert times[0] == 0 and 28 < times[1] < 38


def test_same_draw_same_sample(small_set):
    record = record_of({"video": "0.mp4"}, small_set.parent)
    outs = [room(8) for _ in range(3)]
    samples = [maker().make(record, draw, 64, out) for draw, out in zip((4, 4, 5), outs, strict=True)]
    np.testing.assert_array_equal(outs[0], outs[1])
    assert samples[0].stamps == samples[1].stamps
    assert samples[0].num_groups != samples[2].num_groups, "another rate was drawn"


def test_a_short_last_group_as_the_model_wants_it(small_set):
    record = record_of({"video": "0.mp4"}, small_set.parent)
    three = replace(EVERY_SECOND, max_frames=6)
    out = room(2)
    last = maker(sampling=three, short_group="pad_last").make(record, 5, 64, out)
    np.testing.assert_array_equal(out[6], out[5])
    np.testing.assert_array_equal(out[7], out[5])
    doubled = room(2)
    released = maker(sampling=three, short_group="released").make(record, 5, 64, doubled)
    assert sum(np.array_equal(doubled[i], doubled[i + 1]) for i in range(7)) == 2 and last.stamps == released.stamps


@pytest.mark.parametrize(("size", "groups"), [((112, 56), 2), ((56, 56), 1)])
def test_pictures_are_tiles_that_stand_still(tmp_path, size, groups):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    out = room(3)
    sample = maker().make(record_of({"image": "a.png"}, tmp_path), 1, 64, out)
    assert sample.num_groups == groups and sample.stamps == [[tokenize("t0000")] * groups]
    views = anyres_views(pixels, SHAPE.image_size)[1:]
    for group in range(groups):
        for frame in out[4 * group : 4 * group + 4]:
            np.testing.assert_array_equal(frame, views[group])
    assert maker(picture_views="single").make(record_of({"image": "a.png"}, tmp_path), 1, 64, room(3)).num_groups == 1
    with pytest.raises(ValueError, match="more than 1 tiles"):
        two = record_of({"image": ["a.png", "a.png"]}, tmp_path)
        maker().make(two, 1, 64, room(1))


def test_several_pictures_each_have_their_place(tmp_path):
    for name, grey in (("a.png", 10), ("b.png", 200)):
        Image.new("RGB", (56, 56), (grey, grey, grey)).save(tmp_path / name)
    turns = [
        {"from": "human", "value": "<image>\nOne?"},
        {"from": "gpt", "value": "Dark."},
        {"from": "human", "value": "<image>\nAnd this one?"},
        {"from": "gpt", "value": "Bright."},
    ]
    record = record_of({"image": ["a.png", "b.png"], "conversations": turns}, tmp_path)
    out = room(2)
    whole = maker().make(record, 1, 200, out)
    assert (whole.prompt.ids == VIDEO_MARK).sum() == 2 and out[0, 0, 0, 0] == 10 and out[4, 0, 0, 0] == 200
    length = len(whole.prompt.ids) - 2
    out = room(2)
    cut = maker().make(record, 1, length - 1, out)
    assert cut.rounds_dropped == 1 and (cut.prompt.ids == VIDEO_MARK).sum() == 1
    assert cut.num_groups == 1 and len(cut.stamps) == 1 and not out[4:].any(), "its picture leaves with the question"


def test_text_alone_and_no_text_at_all(tmp_path, small_set):
    plain = [{"from": "human", "value": "What?"}, TURNS[1]]
    out = room(1)
    sample = maker().make(record_of({"conversations": plain}, tmp_path), 1, 64, out)
    assert sample.num_groups == 0 and not out.any() and VIDEO_MARK not in sample.prompt.ids
    clip = replace(EVERY_SECOND, clip_frames=8)
    out = room(2)
    sample = maker("none", clip).make(record_of({"video": "0.mp4"}, small_set.parent), 3, 1, out)
    assert sample.prompt is None and sample.num_groups == 2 and len(np.unique(out.reshape(8, -1), axis=0)) == 8


def test_a_clip_longer_than_its_video_repeats_the_last_frame(small_set):
    sparse = SamplingConfig("variable", 1e9, (0.1,), 0.1, 64, 8)
    out = room(2)
    maker("none", sparse).make(record_of({"video": "0.mp4"}, small_set.parent), 3, 1, out)
    assert len(np.unique(out.reshape(8, -1), axis=0)) == 4
    for frame in out[4:]:
        np.testing.assert_array_equal(frame, out[3])


def test_question_prompts_are_what_inference_asks(small_set):
    record = next(item for item in read_records(small_set, small_set.parent) if item.media_kind == "video")
    prompt = maker("question").make(record, 1, 64, room(4)).prompt
    counted = prompt.ids[prompt.labels != IGNORE_LABEL].tolist()
    assert counted == tokenize(f"{record.turns[0][1]}<|im_end|>")
    with pytest.raises(ValueError, match="too long: question and answer have"):
        maker("question").make(record, 1, len(counted), room(4))


def test_room_for_text_is_what_the_video_leaves(small_set):
    record = record_of({"video": "0.mp4"}, small_set.parent)
    rows = 8 * (STAMP_LEN + SHAPE.tokens_per_group)
    needed = len(maker(sampling=EVERY_SECOND).make(record, 5, 64, room(8)).prompt.ids) - 1
    fitting = {"sampling": EVERY_SECOND, "selection": "keep_rate", "max_context_len": rows + needed}
    assert maker(**fitting).make(record, 5, 64, room(8)).rounds_dropped == 0
    tight = fitting | {"max_context_len": rows + needed - 1}
    with pytest.raises(ValueError, match="too long"):
        maker(**tight).make(record, 5, 64, room(8))
    assert maker(highest=0.5, **tight).make(record, 5, 64, room(8)), "fewer are kept"
    assert maker(**tight | {"selection": "budget"}).make(record, 5, 64, room(8)), "the budget gives way"


def test_prompts_need_a_tokenizer():
    with pytest.raises(ValueError, match="needs a tokenizer"):
        SampleMaker(SHAPE, SAMPLING, "question", 1.0, None, 0)


def test_stamps_beyond_ten_thousand_seconds_are_reckoned_with(small_set):
    assert longest_stamp(SHAPE.stamps, tokenize, 60.0) == longest_stamp(SHAPE.stamps, tokenize, 9999.0) == STAMP_LEN
    assert longest_stamp(SHAPE.stamps, tokenize, 10_001.0) == STAMP_LEN + 1
    late = record_of({"video": "0.mp4", "scale": 1000}, small_set.parent)
    with pytest.raises(ValueError, match=f"a time stamp of {STAMP_LEN + 1} tokens"):
        maker().make(late, 5, 64, room(4))
    wide = SampleMaker(SHAPE, EVERY_SECOND, "question", 1.0, tokenize, STAMP_LEN + 1)
    assert {len(stamp) for stamp in wide.make(late, 5, 64, room(8)).stamps[0]} == {STAMP_LEN, STAMP_LEN + 1}


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(tmp_path):
    """240 frames of 1280x720 are 663 MB; beside the 106 MB that they become, a few chunks of 64 MB are held."""
    with av.open(str(tmp_path / "large.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=1, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for number in range(240):
            frame = av.VideoFrame.from_ndarray(np.full((720, 1280, 3), number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    out = room(60, tile=384)
    tracemalloc.start()
    big = maker("none", SamplingConfig("variable", 1.0, (1.0,), 1.0, 240, 0), image_size=384)
    sample = big.make(record_of({"video": "large.mp4"}, tmp_path), 1, 1, out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sample.num_groups == 60 and np.ptp(out[:, 0, 0, 0].astype(int)) > 200
    assert 64e6 < peak < 3 * 64e6, f"{peak / 1e6:.0f} MB"
