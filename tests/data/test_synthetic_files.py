"""Generated videos on disk: playable H.264, the promised rate and length, and the truth beside them."""

import json

import av
import numpy as np
import pytest

from vxlpro_jax.data.synthetic import sample_video
from vxlpro_jax.data.synthetic_bank import through_codec
from vxlpro_jax.data.synthetic_files import write_dataset, write_video
from vxlpro_jax.data.synthetic_questions import QUESTION_KINDS
from vxlpro_jax.data.synthetic_render import render_frames


@pytest.mark.parametrize(("size", "fps"), [((112, 112), 1.0), ((36, 64), 2.5)])
def test_the_file_shows_the_video(tmp_path, size, fps):
    video = sample_video(1, 0, 32)
    write_video(video, tmp_path / "a.mp4", size, fps)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        frames = list(container.decode(video=0))
    times = np.array([frame.time for frame in frames])
    np.testing.assert_allclose(times, np.arange(round(32 * fps)) / fps, atol=1e-3)
    decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in frames]).astype(float)
    assert np.abs(decoded - render_frames(video, times, size)).mean() < 5
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_dataset_does_not_depend_on_how_many_are_asked_for(tmp_path):
    for name, num in (("one", 1), ("two", 2)):
        assert len(list(write_dataset(tmp_path / name, seed=4, num=num, length_s=32, size=(32, 32)))) == num
    rows = [json.loads(line) for line in (tmp_path / "two" / "truth.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows] == [*QUESTION_KINDS, *QUESTION_KINDS]
    assert set(rows[0]) == {"video", "kind", "question", "answer", "start_s", "end_s"}
    assert {row["video"] for row in rows} == {"00000.mp4", "00001.mp4"}
    assert (tmp_path / "one" / "00000.mp4").read_bytes() == (tmp_path / "two" / "00000.mp4").read_bytes()
    assert rows[:6] == [json.loads(line) for line in (tmp_path / "one" / "truth.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("group_len", [4, 8])
def test_groups_encoded_by_themselves_look_the_same_whatever_is_around(group_len):
    """With the usual options, a change in the middle is seen in what comes before and after."""
    frames = render_frames(sample_video(3, 0, 32), np.arange(32.0), (48, 64))
    changed = frames.copy()
    touched = slice(8, 16)
    changed[10:13] = 255 - changed[10:13]
    plain, other = (through_codec(video, 23, group_len) for video in (frames, changed))
    alone = through_codec(changed[touched], 23, group_len)
    assert (other[touched] == alone).all() and (alone != plain[touched]).any()
    assert (other[:8] == plain[:8]).all() and (other[16:] == plain[16:]).all()
    usual, usual_changed = (through_codec(video, 23) for video in (frames, changed))
    assert (usual[16:] != usual_changed[16:]).any()


def test_bad_sizes_and_rates_are_named(tmp_path):
    video = sample_video(1, 0, 32)
    with pytest.raises(ValueError, match=r"size=\(33, 32\).*even"):
        write_video(video, tmp_path / "a.mp4", (33, 32))
    with pytest.raises(ValueError, match="fps=0.*positive"):
        write_video(video, tmp_path / "a.mp4", fps=0)


def test_a_seed_means_the_same_file_each_time(tmp_path):
    """x264 with several threads writes something else on each run."""
    video = sample_video(2, 0)
    for name in ("a", "b", "c"):
        write_video(video, tmp_path / f"{name}.mp4")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
