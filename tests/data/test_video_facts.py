"""Facts of media: right numbers, cuts counted, faults told, and a file that survives a kill."""

import os
import shutil

import av
import numpy as np
import pytest
from PIL import Image

from vxlpro_jax.data.video_facts import FactStore, count_scene_changes, examine_media


def write_colours(path, colours, seconds_each: int = 2, fps: int = 5) -> None:
    """A video whose picture is one grey after the other."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for grey in colours:
            for _ in range(seconds_each * fps):
                frame = np.full((64, 64, 3), grey, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize(("colours", "cuts"), [((10,), 0), ((10, 240), 1), ((10, 240, 20, 230), 3), ((100, 105), 0)])
def test_cuts_are_counted(tmp_path, colours, cuts):
    write_colours(tmp_path / "a.mp4", colours)
    assert count_scene_changes(str(tmp_path / "a.mp4")) == cuts
    facts = examine_media(str(tmp_path / "a.mp4"), count_cuts=True)
    assert (facts.scene_changes, facts.num_frames, facts.fault) == (cuts, 10 * len(colours), "")
    assert facts.duration_s == pytest.approx(2.0 * len(colours)) and facts.span_s == pytest.approx(
        facts.duration_s - 0.2
    )


def test_pictures_and_what_is_no_video(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    facts = examine_media(str(tmp_path / "a.png"))
    assert facts.is_picture and (facts.height, facts.width, facts.num_frames) == (20, 30, 1)
    (tmp_path / "b.mp4").write_bytes(b"no video")
    assert "FFmpeg" in examine_media(str(tmp_path / "b.mp4")).fault
    assert "no such file" in examine_media(str(tmp_path / "c.mp4")).fault


def test_facts_are_kept_and_examined_again_only_when_asked(tmp_path):
    write_colours(tmp_path / "a.mp4", (10, 240))
    file, path = tmp_path / "facts.jsonl", str(tmp_path / "a.mp4")
    examined = []

    def watch(paths, total):
        for item in paths:
            examined.append(item)
            yield item

    found = FactStore(file).survey([path, path, str(tmp_path / "none.mp4")], progress=watch)
    assert len(examined) == 2 and found[path].scene_changes == -1
    again = FactStore(file).survey([path, str(tmp_path / "none.mp4")], progress=watch)
    assert again == found and len(examined) == 2
    with_cuts = FactStore(file).survey([path], count_cuts=True, progress=watch)
    assert with_cuts[path].scene_changes == 1 and len(examined) == 3
    assert FactStore(file).survey([path], count_cuts=True, progress=watch)[path].scene_changes == 1
    assert len(examined) == 3, "the later line of a path counts"
    shutil.copy(path, tmp_path / "none.mp4")
    os.utime(path, ns=(1, 1))
    same = FactStore(file).survey([path, str(tmp_path / "none.mp4")], progress=watch)
    assert len(examined) == 3 and same[str(tmp_path / "none.mp4")].fault, "a run keeps what it was planned with"
    fresh = FactStore(file).survey([path, str(tmp_path / "none.mp4")], refresh=True, progress=watch)
    assert len(examined) == 5 and not fresh[str(tmp_path / "none.mp4")].fault


def test_half_a_line_is_forgotten(tmp_path):
    write_colours(tmp_path / "a.mp4", (10,))
    file, path = tmp_path / "facts.jsonl", str(tmp_path / "a.mp4")
    FactStore(file).survey([path])
    whole = file.read_text()
    file.write_text(whole + whole[:20])
    store = FactStore(file)
    assert list(store.facts) == [path] and file.read_text() == whole
    store.survey([str(tmp_path / "b.mp4")])
    assert len(FactStore(file).facts) == 2
