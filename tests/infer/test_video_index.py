"""The index on disk: everything comes back, and nothing damaged, unfinished or half-written is taken for an index."""

import json
from dataclasses import fields, replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import SafetensorError

from vxlpro_jax.infer import index_files
from vxlpro_jax.infer.index_files import HEADER
from vxlpro_jax.infer.video_index import VideoIndex, describe_source, is_index


def some_index(num_groups: int = 5, dtype=np.float32) -> VideoIndex:
    rng = np.random.default_rng(num_groups)
    times = np.cumsum(rng.uniform(0.1, 1, num_groups * 4 - 1))
    return VideoIndex(
        tokens=rng.standard_normal((num_groups, 3, 8)).astype(dtype),
        group_times_s=times[::4],
        frame_times_s=times,
        frame_indices=np.arange(len(times)) * 7,
        end_s=float(times[-1] + 0.3),
        kind="video",
        fingerprint="0123abcd",
        sampling={"rule": "fps", "fps": 2.0, "max_frames": None, "spacing_s": 0.5},
        source={"path": "ein Vidéo.mp4", "bytes": 12, "modified_s": 1.5},
        lost=(3, 9),
    )


def assert_same(one: VideoIndex, other: VideoIndex) -> None:
    for field in fields(VideoIndex):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype, field.name
            np.testing.assert_array_equal(ours, theirs, err_msg=field.name)
        elif field.name != "timings":
            assert ours == theirs, field.name


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_round_trip(tmp_path, dtype):
    index = some_index(dtype=dtype)
    path = index.save(tmp_path / "deep" / "video.vxl")
    assert is_index(path) and not is_index(tmp_path) and not is_index(tmp_path / "nothing")
    assert_same(VideoIndex.load(str(path)), index)


@pytest.mark.parametrize("num_groups", [1, 2, 3, 4, 7])
def test_several_segments(tmp_path, monkeypatch, num_groups):
    monkeypatch.setattr(index_files, "GROUPS_PER_SEGMENT", 2)
    index = some_index(num_groups)
    path = index.save(tmp_path / "video.vxl")
    assert len(list(path.glob("*.safetensors"))) == -(-num_groups // 2)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["video.vxl"]
    assert_same(VideoIndex.load(path), index)


@pytest.fixture
def saved(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(index_files, "GROUPS_PER_SEGMENT", 2)
    return some_index(5).save(tmp_path / "video.vxl")


def _edit_header(path: Path, **changes) -> None:
    header = json.loads((path / HEADER).read_text())
    (path / HEADER).write_text(json.dumps({key: val for key, val in (header | changes).items() if val is not ...}))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"state": "open"}, "unfinished"),
        ({"version": 99}, "version 99"),
        ({"format": "something"}, "not the header"),
        ({"fingerprint": ...}, "fingerprint"),
        ({"fingerprint": 7}, "fingerprint"),
        ({"end_s": "soon"}, "end_s"),
        ({"sampling": None}, "sampling"),
        ({"sampling": {"rule": "fps"}}, "spacing_s"),
        ({"segments": "segment-00000.safetensors"}, "segments"),
        ({"segments": []}, "damaged"),
        ({"segments": [7]}, "not a file name"),
        ({"segments": [".."]}, "damaged"),
        ({"segments": [""]}, "not a file name"),
        ({"segments": ["../stolen.safetensors"]}, "not a file name"),
        ({"segments": ["/etc/passwd"]}, "not a file name"),
        ({"segments": ["segment-00000.safetensors", "segment-00001.safetensors"]}, "damaged"),
        ({"segments": ["segment-00001.safetensors", "segment-00002.safetensors"]}, "damaged"),
        ({"num_groups": 6}, "6 groups"),
    ],
)
def test_header_that_lies(saved, changes, message):
    if "stolen" in str(changes):
        (saved / "segment-00000.safetensors").rename(saved.parent / "stolen.safetensors")
    _edit_header(saved, **changes)
    with pytest.raises(ValueError, match=message) as error:
        VideoIndex.load(saved)
    assert str(saved) in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '"header"', "\x00\xff"])
def test_header_that_is_none(saved, text):
    (saved / HEADER).write_text(text)
    with pytest.raises(ValueError, match="index"):
        VideoIndex.load(saved)


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def _replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("harm", [Path.unlink, _truncate, _replace_by_folder, lambda file: file.write_bytes(b"")])
@pytest.mark.parametrize("number", [0, 2])
def test_damaged_segment(saved, harm, number):
    harm(saved / f"segment-{number:05d}.safetensors")
    with pytest.raises(ValueError, match="damaged"):
        VideoIndex.load(saved)


def test_what_is_no_index(tmp_path):
    (tmp_path / "file").write_text("text")
    for path in (tmp_path, tmp_path / "file", tmp_path / "nothing"):
        with pytest.raises(ValueError, match="no video index"):
            VideoIndex.load(path)


def test_existing_target_stays(tmp_path):
    first = some_index(2)
    path = first.save(tmp_path / "video.vxl")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for target in (path, tmp_path / "file", tmp_path / "link"):
        with pytest.raises(FileExistsError, match="exists"):
            some_index(3).save(target)
    assert_same(VideoIndex.load(path), first)
    assert (tmp_path / "file").read_text() == "mine"


def test_nothing_half_written(tmp_path, monkeypatch):
    written = []

    def fails_at_the_second(tensors, path):
        if written:
            header = json.loads((path.parent / HEADER).read_text())
            assert header["state"] == "open"  # what an interrupted process would leave behind
            raise KeyboardInterrupt
        written.append(path)
        path.write_bytes(b"half")

    monkeypatch.setattr(index_files, "GROUPS_PER_SEGMENT", 2)
    monkeypatch.setattr(index_files, "save_file", fails_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        some_index(5).save(tmp_path / "video.vxl")
    assert written and list(tmp_path.iterdir()) == []


def test_no_place_to_write(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("text")
    with pytest.raises(OSError):
        some_index().save(tmp_path / "file" / "video.vxl")

    def no_space(tensors, path):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(index_files, "save_file", no_space)
    with pytest.raises(OSError, match="cannot be written .No space left"):
        some_index().save(tmp_path / "video.vxl")
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_numpy_numbers_in_what_is_described(tmp_path):
    source = tmp_path / "a.mp4"
    source.write_bytes(b"12345")
    described = describe_source(source)
    assert described["path"] == str(source) and described["bytes"] == 5 and described["modified_s"] > 0
    path = replace(some_index(), source=described).save(tmp_path / "video.vxl")
    assert VideoIndex.load(path).source == described
