"""An index written as it goes: stopped anywhere it ends as if nobody had stopped it, to the bit; and it grows."""

import json
import os
import shutil
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from tests.data.clips import Clip, make_clip
from tests.infer.askable import CONFIG, askable, tokenizer
from tests.infer.growing import GROUP, BatchEncoder, content, index, write_frames
from tests.infer.test_video_index import assert_same
from tests.small_model import small_params
from vxlpro_jax.infer import encode, index_files, index_writer
from vxlpro_jax.infer.answer import VideoXLPro
from vxlpro_jax.infer.index_files import HEADER, PART
from vxlpro_jax.infer.video_index import VideoIndex
from vxlpro_jax.models.presets import VideoXLProConfig

SEGMENT = 4 * 2 * GROUP  # frames
LOST = (3, 30, 31, 32, 33, 66, 67)


@pytest.fixture
def encoder(monkeypatch) -> BatchEncoder:
    made = BatchEncoder()
    monkeypatch.setattr(encode, "encode_frames", made)
    monkeypatch.setattr(index_files, "GROUPS_PER_SEGMENT", 7)  # whole batches: 8
    return made


@pytest.fixture(params=["whole", "damaged"])
def video(request, tmp_path) -> Path:
    """Two segments and a bit."""
    return write_frames(tmp_path / "video", range(68), broken=LOST if request.param == "damaged" else ())


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings(action="ignore"):  # of lost frames
        yield


def test_written_or_gathered_it_is_the_same_index(encoder, video, tmp_path):
    gathered = index(video)
    written = index(video, tmp_path / "written.vxl")
    assert_same(written, gathered)
    assert_same(VideoIndex.load(tmp_path / "written.vxl"), gathered)
    assert set(gathered.lost) in ({*LOST}, set())
    gathered.save(tmp_path / "saved.vxl")
    assert content(tmp_path / "saved.vxl") == content(tmp_path / "written.vxl")
    assert len(content(tmp_path / "saved.vxl")) == 1 + -(-len(gathered.frame_indices) // SEGMENT)


def test_whoever_is_killed_goes_on(encoder, video, tmp_path):
    """What a kill would leave is copied after every batch and before and after segments and headers are written."""
    output, states = tmp_path / "video.vxl", []
    still = threading.Lock()  # segments are written by another thread than the one that reports progress

    def copy(*_) -> None:
        with still:
            states.append(tmp_path / f"state-{len(states)}" / "video.vxl")
            shutil.copytree(output, states[-1])

    def writing(original):
        def write(target, *arguments):
            copy()
            with still:
                original(target, *arguments)
            copy()

        return write

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_writer, "write_segment", writing(index_writer.write_segment))
        patch.setattr(index_writer, "write_header", writing(index_writer.write_header))
        index(video, output, progress=copy)
    wanted, whole = content(output), encoder.num_frames
    assert len(states) > 10
    spared = []
    for number, state in enumerate(states):
        if HEADER in content(state) and json.loads((state / HEADER).read_text())["state"] == "complete":
            assert content(state) == wanted
            continue
        with pytest.raises(ValueError, match="unfinished|no video index"):
            VideoIndex.load(state)
        (state / f"{PART}segment-00001.safetensors").write_bytes(b"half")
        encoder.num_frames = 0
        index(video, state)
        assert content(state) == wanted, number
        spared.append(whole - encoder.num_frames)
    assert {0, SEGMENT} <= set(spared) and max(spared) > SEGMENT  # whole batches of a last, short segment too


def test_files_are_on_disk_before_they_have_their_names(encoder, video, tmp_path, monkeypatch):
    synced = set()

    def sync(descriptor: int) -> None:
        assert os.fstat(descriptor).st_ino not in {path.stat().st_ino for path in output.glob("[!.]*")}
        synced.add(os.fstat(descriptor).st_ino)

    output = tmp_path / "video.vxl"
    monkeypatch.setattr(index_files.os, "fsync", sync)
    index(video, output)
    assert {path.stat().st_ino for path in output.iterdir()} <= synced


def test_an_error_or_a_hand_stops_it(encoder, video, tmp_path):
    def stop(done, _):
        if done > stop.at:
            raise KeyboardInterrupt

    output = tmp_path / "video.vxl"
    stop.at = 0
    with pytest.raises(KeyboardInterrupt):
        index(video, output, progress=stop)
    assert not output.exists()  # nothing to go on with
    for stop.at in (SEGMENT + 2 * GROUP, SEGMENT + 3 * GROUP):
        with pytest.raises(KeyboardInterrupt):
            index(video, output, progress=stop)
        assert sorted(content(output)) == [HEADER, "segment-00000.safetensors"]
    encoder.num_frames = 0
    assert_same(index(video, output), index(video))
    assert encoder.num_frames < 2 * 68


def _begun(video: Path, output: Path) -> Path:
    def stop(done, _):
        if done > SEGMENT + GROUP:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index(video, output, progress=stop)
    return output


def _with_config(config: VideoXLProConfig) -> VideoXLPro:
    return VideoXLPro(config, small_params(CONFIG), tokenizer())


def test_what_was_begun_otherwise_is_refused(encoder, tmp_path):
    video = write_frames(tmp_path / "video", range(68))
    output = _begun(video, tmp_path / "video.vxl")
    before = content(output)
    for options, said in (
        ({"fps": 0.5}, "sampling fps: 1.0 there, 0.5 now"),
        ({"max_frames": 40}, "max_frames: None there, 40 now"),
        ({"sampling": "released"}, "sampling rule: fps there, released now"),
        ({"frames_per_batch": 4 * GROUP}, "groups_per_batch: 2 there, 4 now"),
    ):
        with pytest.raises(ValueError, match=said):
            index(video, output, **options)
    other = replace(CONFIG, dts=replace(CONFIG.dts, relative_term="textbook"))
    with pytest.raises(ValueError, match=f"model: {askable().fingerprint} there"):
        _with_config(other).index(video, output=output, frames_per_batch=2 * GROUP)
    doubling = _with_config(replace(CONFIG, short_group="released"))
    with pytest.raises(ValueError, match="short_group_seed: None there, 5 now"):
        doubling.index(video, output=output, frames_per_batch=2 * GROUP, seed=5)
    write_frames(video, [68])
    with pytest.raises(ValueError, match="source bytes: .* there, .* now; source modified_s"):
        index(video, output)
    assert content(output) == before
    pixels = np.zeros((3, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="frames of an array are not known again"):
        askable().index(pixels, output=output)


def test_what_is_there_stays(encoder, tmp_path):
    video = write_frames(tmp_path / "video", range(9))
    output = tmp_path / "video.vxl"
    index(video, output)
    before = content(output)
    with pytest.raises(FileExistsError, match="exists and is complete"):
        index(video, output)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for name in ("file", "folder", "link"):
        with pytest.raises(FileExistsError, match="exists"):
            index(video, tmp_path / name)
    assert content(output) == before and (tmp_path / "folder" / "mine").exists()


def test_two_cannot_write_one_index(encoder, tmp_path):
    video = write_frames(tmp_path / "video", range(68))
    refused = []

    def index_it_too(*_) -> None:
        with pytest.raises(ValueError, match="being written by another process"):
            index(video, tmp_path / "video.vxl")
        refused.append(True)

    index(video, tmp_path / "video.vxl", progress=index_it_too)
    assert refused


def test_a_full_disk(encoder, tmp_path, monkeypatch):
    def no_space(*_):
        raise SafetensorError("No space left on device")

    video = write_frames(tmp_path / "video", range(68))
    monkeypatch.setattr(index_writer, "write_segment", no_space)
    with pytest.raises(OSError, match="video.vxl cannot be written .No space left"):
        index(video, tmp_path / "video.vxl")
    assert not (tmp_path / "video.vxl").exists()


@pytest.mark.parametrize("lengths", [(3, 5), (9, 10, 11, 40), (33, 68), (64, 72), (70, 71, 90)])
def test_a_growing_video(encoder, tmp_path, lengths):
    """The same files as indexing the grown video from nothing, after every growth."""
    video, output = tmp_path / "video", tmp_path / "video.vxl"
    for number, length in enumerate(lengths):
        write_frames(video, range(length), broken=(3,))
        encoder.num_frames = 0
        grown = index(video, output, append=True)
        spent = encoder.num_frames
        anew = index(video, tmp_path / f"anew-{number}.vxl")
        assert content(output) == content(tmp_path / f"anew-{number}.vxl")
        assert len(grown.frame_indices) == length - (length > 3) and len(anew.tokens) == len(grown.tokens)
    assert spent <= (lengths[-1] - lengths[-2]) + 5 * GROUP  # the last batch, once more to compare, and what is new
    encoder.num_frames = 0
    assert_same(index(video, output, append=True), anew)
    assert encoder.num_frames == 0
    write_frames(video, range(length + 1), broken=())  # a frame that was lost is there by now
    assert index(video, output, append=True).lost == ()
    index(video, tmp_path / "repaired.vxl")
    assert content(output) == content(tmp_path / "repaired.vxl")


def test_growth_can_be_interrupted(encoder, tmp_path):
    video, output = write_frames(tmp_path / "video", range(44)), tmp_path / "video.vxl"
    index(video, output)
    write_frames(video, range(44, 90))

    def stop(done, _):
        if done > stop.at:
            raise KeyboardInterrupt

    for stop.at in (45, 70):
        with pytest.raises(KeyboardInterrupt):
            index(video, output, append=True, progress=stop)
        with pytest.raises(ValueError, match="unfinished"):
            VideoIndex.load(output)
    write_frames(video, range(90, 120))  # it grew meanwhile
    with pytest.raises(ValueError, match="begun otherwise .source bytes"):
        index(video, output)
    index(video, output, append=True)
    index(video, tmp_path / "anew.vxl")
    assert content(output) == content(tmp_path / "anew.vxl")


def test_a_repaired_video_can_be_interrupted(encoder, tmp_path):
    """Segments after the mended frame are gone: they would go on with frames that have moved."""
    video, output = write_frames(tmp_path / "video", range(3 * SEGMENT), broken=(5,)), tmp_path / "video.vxl"
    index(video, output)
    write_frames(video, range(3 * SEGMENT))

    def stop(done, _):
        if done > SEGMENT + GROUP:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index(video, output, append=True, progress=stop)
    index(video, output)
    index(video, tmp_path / "anew.vxl")
    assert content(output) == content(tmp_path / "anew.vxl")


def test_what_cannot_grow(encoder, tmp_path):
    video, output = write_frames(tmp_path / "video", range(40)), tmp_path / "video.vxl"
    index(video, output, max_frames=50)
    before = content(output)
    write_frames(video, range(40, 60))
    for options, said in (
        ({"sampling": "released"}, "sampling='released'"),
        ({"max_frames": 50}, "60 frames at fps=1.0, so the cap spreads them anew"),
        ({}, "max_frames: 50 there, None now"),
        ({"fps": 2.0, "max_frames": 70}, "fps: 1.0 there, 2.0 now"),
    ):
        with pytest.raises(ValueError, match=said):
            index(video, output, append=True, **options)
    with pytest.raises(ValueError, match="short_group='released'"):
        _with_config(replace(CONFIG, short_group="released")).index(video, output=output, append=True)
    with pytest.raises(ValueError, match="name the index"):
        index(video, append=True)
    assert content(output) == before
    shutil.rmtree(video)
    write_frames(video, range(20), seed=0)
    with pytest.raises(ValueError, match="does not begin with the frames"):
        index(video, output, append=True, max_frames=50)
    write_frames(video, range(45), seed=1)
    with pytest.raises(ValueError, match="shows something else"):
        index(video, output, append=True, max_frames=50)
    assert content(output) == before


@pytest.mark.parametrize("name", ["growing.mkv", "growing.mp4"])
def test_a_growing_file(tmp_path, name):
    """A recording that its writer closes from time to time, and real arithmetic."""
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof"} if name.endswith("mp4") else {}
    output = tmp_path / "video.vxl"
    for length in (120, 133, 250):
        (tmp_path / name).unlink(missing_ok=True)
        clip = Clip(name, "libx264", length, {"g": "12", "bf": "0", "sc_threshold": "0"}, container_options=fragments)
        path = make_clip(clip, tmp_path)
        askable().index(path, fps=5, frames_per_batch=GROUP, output=output, append=True)
    anew = askable().index(path, fps=5, frames_per_batch=GROUP, output=tmp_path / "anew.vxl")
    assert len(anew.frame_indices) == 50
    assert content(output) == content(tmp_path / "anew.vxl")
