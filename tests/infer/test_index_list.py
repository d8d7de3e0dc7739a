"""Many videos: names of their indexes, what becomes of each, and stopping."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from vxlpro_jax.infer.index_list import IndexJob, find_jobs, index_all, is_folder_of_videos


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_an_index_for_every_video(tmp_path):
    films = _touch(tmp_path / "films", "b.mp4", "a/1.MKV", "a/1.mp4", ".hidden.mp4", ".git/c.mp4", "a/poster.jpg")
    _touch(films, "old.vxl/stray.mp4")
    photos = _touch(tmp_path / "photos", "1.png", "2.png")
    other = _touch(tmp_path, "b.mp4") / "b.mp4"
    assert is_folder_of_videos(films) and not is_folder_of_videos(photos) and not is_folder_of_videos(other)
    out = tmp_path / "out"
    found = {str(job.target.relative_to(out)): job.source for job in find_jobs([films, photos], out)}
    assert found == {
        "a/1.MKV.vxl": films / "a/1.MKV",
        "a/1.mp4.vxl": films / "a/1.mp4",
        "b.mp4.vxl": films / "b.mp4",
        "photos.vxl": photos,
    }
    with pytest.raises(ValueError, match="b.mp4 and .*b.mp4 would both be indexed as"):
        find_jobs([films, other], out)


def _jobs(count: int) -> list[IndexJob]:
    return [IndexJob(Path(f"{number}.mp4"), Path(f"{number}.vxl")) for number in range(count)]


def test_what_becomes_of_each():
    at_once, most = threading.Semaphore(2), []
    both = threading.Barrier(2)

    def index_one(job, progress):
        assert at_once.acquire(blocking=False)  # never more than the workers
        if job.source.stem in "01":
            both.wait(10)  # and as many as that
        most.append(job)
        progress(1, 4)
        at_once.release()
        if job.source.stem == "2":
            raise ValueError("broken")
        return SimpleNamespace(frame_indices=range(5), lost=(7,) * int(job.source.stem))

    shares: dict[str, list[float]] = {}
    outcomes = index_all(
        _jobs(5), index_one, 2, lambda job, share: shares.setdefault(job.source.stem, []).append(share)
    )
    assert sorted((outcome.job.source.stem, *outcome[1:]) for outcome in outcomes) == [
        ("0", 5, 0, ""),
        ("1", 5, 1, ""),
        ("2", 0, 0, "broken"),
        ("3", 5, 3, ""),
        ("4", 5, 4, ""),
    ]
    assert shares == {name: [0.25] for name in "0134"} | {"2": [0.25, 1.0]}


def test_stopping_leaves_what_is_under_way():
    begun, ended, goes_on = [], [], threading.Event()

    def index_one(job, progress):
        begun.append(job)
        if len(begun) > 1:
            try:
                while True:
                    goes_on.wait(0.01)
                    progress(1, 2)
            finally:
                ended.append(job)
        return SimpleNamespace(frame_indices=(), lost=())

    outcomes = index_all(_jobs(9), index_one, 1, lambda *_: None)
    assert next(outcomes).reason == ""
    outcomes.close()
    assert ended == begun[1:] and len(begun) <= 2  # the others were never begun
