"""Many videos, each into an index of its own: what is done is skipped, what was begun goes on, what is broken is told.

Source: ours. Videos are decoded and written side by side; they share one model and its device.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from vxlpro_jax.infer.encode import Progress
from vxlpro_jax.infer.video_index import VideoIndex

VIDEO_SUFFIXES = frozenset(
    ".3gp .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split()  # by FFmpeg's demuxers
)
INDEX_SUFFIX = ".vxl"


class IndexJob(NamedTuple):
    """A video and the index that it is to have."""

    source: Path
    target: Path


class Outcome(NamedTuple):
    """What became of a job: num_frames and num_lost of the index, or the reason why there is none."""

    job: IndexJob
    num_frames: int
    num_lost: int
    reason: str


class _Stopped(Exception):
    """Ends a worker whose result nobody wants any more."""


def is_folder_of_videos(path: Path) -> bool:
    """Whether a folder holds videos, itself or in folders below; a folder of images is one video."""
    return path.is_dir() and any(True for _ in _videos_in(path))


def find_jobs(sources: Sequence[Path], output: Path) -> list[IndexJob]:
    """An index in the folder `output` for every video: for talks/a/1.mp4 of the folder talks, output/a/1.mp4.vxl.

    Raises ValueError where two videos would have one index.
    """
    jobs: dict[Path, IndexJob] = {}
    for source in sources:
        inside = sorted(_videos_in(source)) if is_folder_of_videos(source) else []
        for video in inside or [source]:
            name = video.relative_to(source) if inside else Path(video.name)
            job = IndexJob(video, output / name.with_name(name.name + INDEX_SUFFIX))
            if job.target in jobs:
                raise ValueError(
                    f"{jobs[job.target].source} and {video} would both be indexed as {job.target}: give one of them "
                    "another name, or index them into two folders"
                )
            jobs[job.target] = job
    return list(jobs.values())


def _videos_in(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and not name.endswith(INDEX_SUFFIX)]
        for name in names:
            if Path(name).suffix.lower() in VIDEO_SUFFIXES and not name.startswith("."):
                yield Path(place, name)


def index_all(
    jobs: Sequence[IndexJob],
    index_one: Callable[[IndexJob, Progress], VideoIndex],
    workers: int,
    on_share: Callable[[IndexJob, float], None],
) -> Iterator[Outcome]:
    """Indexes so many videos at a time; yields what became of each as it ends.

    on_share: called by the workers with the share of a video that is done. Whoever leaves the loop early leaves indexes
    that can be gone on with.
    """
    stopped = threading.Event()

    def work(job: IndexJob) -> Outcome:
        def progress(done: int, total: int) -> None:
            if stopped.is_set():
                raise _Stopped
            on_share(job, done / total)

        try:
            index = index_one(job, progress)
        except (ValueError, OSError) as error:
            on_share(job, 1.0)
            return Outcome(job, 0, 0, str(error))
        return Outcome(job, len(index.frame_indices), len(index.lost), "")

    pool = ThreadPoolExecutor(workers)
    try:
        for future in as_completed([pool.submit(work, job) for job in jobs]):
            yield future.result()
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)
