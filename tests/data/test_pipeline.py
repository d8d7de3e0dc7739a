"""The feed: the same batches from any number of workers and processes, after a kill, and with broken files."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.data.feed_setup import SHAPE, data_config, digest, tokenize
from vxlpro_jax.data.batch_plan import BucketConfig
from vxlpro_jax.data.pipeline import BrokenDataError, DataFeed, open_feed
from vxlpro_jax.data.records import write_records

REPOSITORY = Path(__file__).resolve().parents[2]
NUM_STEPS = 5

# A process of its own: prints the digests of some steps of a feed, one JSON object per line.
PROCESS = """
import json, sys
from pathlib import Path
from tests.data.feed_setup import SHAPE, data_config, digest, tokenize
from vxlpro_jax.data.pipeline import open_feed

if __name__ == "__main__":
    annotations, workdir, workers, index, count, first, last = sys.argv[1:8]
    config = data_config(Path(annotations), workers=int(workers))
    process = (int(index), int(count))
    with open_feed(config, SHAPE, tokenize, 7, Path(workdir), process) as feed:
        for step in range(int(first), int(last)):
            batch = feed(step)
            parts = zip(batch.frames, batch.rows.text_ids, batch.selection.num_keep, strict=True)
            rows = [digest(part) for part in parts]
            print(json.dumps({"step": step, "digest": digest(batch), "rows": rows}), flush=True)
"""


def start(annotations: Path, workdir: Path, workers=0, process=(0, 1), steps=(0, NUM_STEPS)):
    workdir.mkdir()
    script = workdir / "one_process.py"  # its own: one that another start rewrites is empty for a moment
    script.write_text(PROCESS)
    arguments = [annotations, workdir, workers, *process, *steps]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, script, *map(str, arguments)], stdout=subprocess.PIPE, text=True, env=environment
    )


def finished(process: subprocess.Popen) -> dict[int, dict]:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return {line["step"]: line for line in map(json.loads, output.splitlines())}


def feed_of(annotations: Path, workdir: Path, **changes) -> DataFeed:
    return open_feed(data_config(annotations, **changes), SHAPE, tokenize, 7, workdir)


@pytest.fixture(scope="module")
def expected(small_set, tmp_path_factory) -> list[str]:
    with feed_of(small_set, tmp_path_factory.mktemp("run")) as feed:
        return [digest(feed(step)) for step in range(NUM_STEPS)]


def test_a_step_is_what_it_is_wherever_one_begins(small_set, tmp_path, expected):
    with feed_of(small_set, tmp_path) as feed:
        for step in (3, 4, 0, 2):
            assert digest(feed(step)) == expected[step]
        assert feed.num_broken == 0
        assert feed.num_steps(2) > feed.num_steps(1) > 0
    with feed_of(small_set, tmp_path) as feed:
        assert digest(feed(2)) == expected[2]
    with open_feed(data_config(small_set), SHAPE, tokenize, 8, tmp_path / "b") as feed:
        assert digest(feed(0)) != expected[0], "another seed, another batch"


def check_runs(runs, tmp_path: Path, annotations: Path, expected: list[str]) -> None:
    """Runs each (workers, process) by itself, all at once, and compares what they made."""
    started = {run: start(annotations, tmp_path / f"run{number}", *run) for number, run in enumerate(runs)}
    found = {run: finished(process) for run, process in started.items()}
    for workers, process in runs:
        if process == (0, 1):
            made = [found[workers, process][step]["digest"] for step in range(NUM_STEPS)]
            assert made == expected, f"{workers} workers"
    halves = [next(found[run] for run in runs if run[1] == (number, 2)) for number in range(2)]
    whole = next(found[run] for run in runs if run[1] == (0, 1))
    for step in range(NUM_STEPS):
        assert halves[0][step]["rows"] + halves[1][step]["rows"] == whole[step]["rows"]


def test_workers_and_processes_change_nothing(small_set, tmp_path, expected):
    """`expected` was made by no worker; here three workers, and two processes of which one has a worker."""
    check_runs([(3, (0, 1)), (1, (0, 2)), (0, (1, 2))], tmp_path, small_set, expected)


@pytest.mark.slow
def test_every_number_of_workers_and_processes(small_set, tmp_path, expected):
    runs = [(workers, (0, 1)) for workers in (0, 1, 2, 3)] + [(workers, (workers, 2)) for workers in (0, 1)]
    check_runs(runs, tmp_path, small_set, expected)
    resumed = start(small_set, tmp_path / "resumed", 2, (0, 1), (2, NUM_STEPS))
    assert [line["digest"] for line in finished(resumed).values()] == expected[2:]


def test_workers_end_with_the_process_that_is_killed(small_set, tmp_path):
    process = start(small_set, tmp_path / "run", workers=1, steps=(0, 10**6))
    assert process.stdout.readline(), "it runs"
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert children
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "a worker outlived its run"
        time.sleep(0.2)


def arrays_in(value) -> list[np.ndarray]:
    if isinstance(value, tuple):
        return [array for part in value for array in arrays_in(part)]
    return [value] if isinstance(value, np.ndarray) else []


def test_a_worker_that_is_killed_costs_time_only(small_set, tmp_path, expected, capsys):
    with feed_of(small_set, tmp_path, workers=1) as feed:
        first = feed(0)
        assert digest(first) == expected[0]
        arrays = arrays_in(first)
        assert len(arrays) > 5 and {type(array) for array in arrays} == {np.ndarray}, "no memory of the workers"
        (worker,) = [child for child in multiprocessing.active_children() if child.is_alive()]
        worker.kill()
        worker.join()
        assert [digest(feed(step)) for step in range(1, NUM_STEPS)] == expected[1:]
    assert "is made again" in capsys.readouterr().err


def broken_set(small_set: Path, folder: Path) -> Path:
    """A copy in which a video is cut in the middle: it opens, but cannot be read to its end."""
    shutil.copytree(small_set.parent, folder)
    content = (folder / "4.mp4").read_bytes()
    half = len(content) // 2
    (folder / "4.mp4").write_bytes(content[:half] + bytes(len(content) // 4) + content[half + len(content) // 4 :])
    return folder / "train.jsonl"


def test_broken_samples_are_listed_and_forgotten_where_steps_are_made_again(small_set, tmp_path):
    annotations = broken_set(small_set, tmp_path / "set")
    lines = annotations.read_text().splitlines()
    annotations.write_text("\n".join([*lines, '{"video": "none.mp4", "conversations": []}', "{no JSON"]) + "\n")
    workdir = tmp_path / "run"

    def listed() -> list[dict]:
        return [json.loads(line) for line in (workdir / "broken.jsonl").read_text().splitlines()]

    with feed_of(annotations, workdir, max_broken_share=0.5) as feed:
        planned = listed()
        assert [line["step"] for line in planned] == [-1, -1]
        assert [line["line"] for line in planned] == [len(lines) + 2, len(lines) + 1]
        assert "not JSON" in planned[0]["reason"] and "'conversations' is []" in planned[1]["reason"]
        digests = [digest(feed(step)) for step in range(feed.num_steps(1))]
        whole = listed()
        assert feed.num_broken == len(whole) - 2 > 0
        for line in whole[2:]:
            assert "4.mp4" in line["reason"] and line["taken"] >= 0
            assert json.loads(annotations.read_text().splitlines()[line["line"] - 1])["video"] == "4.mp4"
    with feed_of(annotations, workdir, max_broken_share=0.5) as feed:
        middle = len(digests) // 2
        assert [digest(feed(step)) for step in range(middle, len(digests))] == digests[middle:]
        assert listed() == whole and feed.num_broken == len(whole) - 2


def test_records_of_more_pictures_than_the_run_takes_are_told_and_are_not_broken(small_set, tmp_path, capsys):
    raw = next(json.loads(line) for line in small_set.read_text().splitlines() if "image" in json.loads(line))
    picture = str(small_set.parent / raw["image"])
    write_records(tmp_path / "a.jsonl", [raw | {"image": picture}, raw | {"image": [picture] * 2}])
    with feed_of(tmp_path / "a.jsonl", tmp_path / "run", max_broken_share=0.0):
        said = capsys.readouterr().err
    assert "1 of 2 records are left out" in said and "a.jsonl:2: 2 pictures; data.max_media=1" in said
    assert not (tmp_path / "run" / "broken.jsonl").read_text()


def test_a_run_stops_when_too_much_is_broken(small_set, tmp_path):
    annotations = broken_set(small_set, tmp_path / "set")
    with feed_of(annotations, tmp_path / "run", max_broken_share=0.0) as feed:
        with pytest.raises(BrokenDataError, match=r"max_broken_share=0.0.*train.jsonl:\d+: .*4.mp4"):
            for step in range(feed.num_steps(1)):
                feed(step)
    (tmp_path / "set" / "1.mp4").unlink()
    with pytest.raises(BrokenDataError, match="records of the mixture are broken.*1.mp4: no such file"):
        feed_of(annotations, tmp_path / "other", max_broken_share=0.1)


def test_a_plan_outlives_files_that_go_missing(small_set, tmp_path):
    """The facts of a run are those of its beginning: a plan does not change under a run that resumes."""
    annotations = tmp_path / "set" / "train.jsonl"
    shutil.copytree(small_set.parent, tmp_path / "set")
    with feed_of(annotations, tmp_path / "run") as feed:
        before = [feed.plan[step].records.tolist() for step in range(8)]
    (tmp_path / "set" / "1.mp4").unlink()
    with feed_of(annotations, tmp_path / "run") as feed:
        assert [feed.plan[step].records.tolist() for step in range(8)] == before
    with feed_of(annotations, tmp_path / "new", max_broken_share=0.5) as feed:
        assert [feed.plan[step].records.tolist() for step in range(8)] != before


def test_clips_for_reconstruction_mix_pictures_and_videos(small_set, tmp_path):
    config = data_config(small_set)
    sampling = config.sampling.__class__("variable", 1e9, (1.0, 2.0), 1.0, 64, 8)
    buckets = {"picture": BucketConfig(1, 1, 3), "clip": BucketConfig(2, 1, 2)}
    changes = {"prompt": "none", "sampling": sampling, "buckets": buckets, "keep": config.keep}
    with open_feed(data_config(small_set, **changes), SHAPE, None, 1, tmp_path) as feed:
        shapes = [feed(step).frames.shape for step in range(feed.num_steps(1))]
    assert set(shapes) == {(3, 4, 56, 56, 3), (2, 8, 56, 56, 3)}
