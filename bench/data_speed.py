"""Samples and frames per second of the training feed against workers, beside decord alone on the same frames.

    python -m bench.data_speed [--videos 16] [--seconds 32] [--rounds 5] [--workers 0,1,2] [--json FILE]

Every round runs all ways one after the other on the same samples, so that a busy machine slows all of them; ratios are
taken within a round. decord reads the very frames that the feed chose, in this process, with and without the resize to
the model's 384x384. Processor seconds per frame (all threads; of workers too, their start included) say what a way
costs where others use the machine. The committed figures: --json bench/results/data_speed.json. Exit code: 0, 2 for bad
arguments or a file that cannot be written.
"""

import argparse
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.report import tell
from configs.data import feed as feed_config
from launch.data_settings import read_settings, shape_of, tokenizer_of
from vxlpro_jax.config import model_config
from vxlpro_jax.data.batch_plan import BucketConfig
from vxlpro_jax.data.frame_sampling import choose_training_frames
from vxlpro_jax.data.image_transforms import stretch
from vxlpro_jax.data.pipeline import DataConfig, DataFeed, open_feed
from vxlpro_jax.data.records import write_records
from vxlpro_jax.data.samples import ModelShape
from vxlpro_jax.data.synthetic import sample_video
from vxlpro_jax.data.synthetic_files import write_video
from vxlpro_jax.data.synthetic_records import video_records
from vxlpro_jax.data.video_decode import open_video
from vxlpro_jax.types import ClipBatch

SIZE, FPS, LENGTH_S, BATCH = (360, 640), 25.0, 32, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the files, measures, prints and writes the result."""
    parser = argparse.ArgumentParser(prog="bench.data_speed", description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=16)
    parser.add_argument("--seconds", type=int, default=LENGTH_S, help="per video, at 25 frames/s of 640x360")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", default="0,1,2", help="numbers of workers, with commas")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file")
    args = parser.parse_args(argv)
    if not all(part.isdecimal() for part in args.workers.split(",")):
        parser.error(f"--workers {args.workers}: numbers with commas between them, as in 0,1,2")
    if min(args.videos, args.seconds, args.rounds) < 1:
        parser.error("--videos, --seconds and --rounds: at least 1 each")
    try:
        measure(args)
    except (ValueError, OSError) as error:
        print(f"bench.data_speed: {error}", file=sys.stderr)
        return 2
    return 0


def measure(args: argparse.Namespace) -> None:
    """All rounds, and the result."""
    with tempfile.TemporaryDirectory() as folder:
        annotations = write_files(Path(folder), args.videos, args.seconds)
        settings = read_settings(feed_config.get_config())
        shape, tokenize = shape_of(model_config(settings)), tokenizer_of(settings).encode
        groups = -(-args.seconds // shape.frames_per_group)
        config = replace(
            settings.data,
            mixture=str(annotations),
            buckets={"all": BucketConfig(groups, 128, BATCH)},
            buffered_batches=1,
        )

        def opened(workers: int) -> DataFeed:
            return open_feed(replace(config, workers=workers), shape, tokenize, 0, Path(folder) / f"run{workers}")

        ways: dict[str, list[dict[str, float]]] = {}
        for number in range(args.rounds):
            for name, measured in one_round(opened, config, shape, [int(n) for n in args.workers.split(",")]).items():
                ways.setdefault(name, []).append(measured)
            shown = {name: round(runs[-1]["frames_per_s"], 1) for name, runs in ways.items()}
            print(f"round {number}: frames/s {shown}", flush=True)
    write_result(ways, args)


def write_files(folder: Path, num_videos: int, length_s: int) -> Path:
    """H.264 files, copies of one (rendering takes longer than all that is measured), and one record for each."""
    video = sample_video(5, 0, length_s)
    write_video(video, folder / "0.mp4", SIZE, FPS)
    for index in range(1, num_videos):
        shutil.copy(folder / "0.mp4", folder / f"{index}.mp4")
    records = [video_records(video, f"{index}.mp4")[0] for index in range(num_videos)]
    write_records(folder / "train.jsonl", records)
    return folder / "train.jsonl"


def one_round(opened: Any, config: DataConfig, shape: ModelShape, workers: list[int]) -> dict[str, dict[str, float]]:
    """Seconds and speeds of every way over the same epoch."""
    found = {}
    samples = []
    with opened(0) as feed:
        for step in range(feed.num_steps(1)):
            draw = feed.plan[step]
            samples += [
                (feed.mixture.record(int(record)).media[0], int(number))
                for record, number in zip(draw.records, draw.draws, strict=True)
            ]
    if find_spec("decord"):
        frames = chosen_frames(samples, config)
        found["decord alone"] = measured_decord(frames, None)
        found["decord alone, resized"] = measured_decord(frames, shape.image_size)
    for count in workers:
        cpu_s = processor_s()
        with opened(count) as feed:
            begun = time.perf_counter()
            first = frames_in(feed(0), shape)  # workers start, and the first batch is made
            start_s = time.perf_counter() - begun
            num_steps = feed.num_steps(1)
            begun = time.perf_counter()
            num_frames = sum(frames_in(feed(step), shape) for step in range(1, num_steps + 1))
            seconds = time.perf_counter() - begun
        # Batches made ahead and thrown away cost too; a training throws none away.
        cost = (processor_s() - cpu_s) / (first + num_frames)
        measured = speeds(seconds, num_steps * BATCH, num_frames)
        found[f"feed, {count} workers"] = measured | {"start_s": start_s, "cpu_s_per_frame": cost}
    return found


def frames_in(batch: ClipBatch, shape: ModelShape) -> int:
    return int((batch.rows.video_of_group >= 0).sum()) * shape.frames_per_group


def processor_s() -> float:
    """Seconds of processor that this process and the children that have ended used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def chosen_frames(samples: list[tuple[str, int]], config: DataConfig) -> list[tuple[str, list[int]]]:
    """(path, frame numbers) of each sample, as the feed chooses them."""
    chosen = []
    for path, draw in samples:
        with open_video(path) as video:
            choice = choose_training_frames(config.sampling, video.times_s, video.duration_s, draw)
        chosen.append((path, choice.indices.tolist()))
    return chosen


def measured_decord(samples: list[tuple[str, list[int]]], image_size: int | None) -> dict[str, float]:
    """decord in this process, with its own threads; resized to image_size if given."""
    import decord

    begun, cpu_s = time.perf_counter(), processor_s()
    for path, indices in samples:
        frames = decord.VideoReader(path).get_batch(indices).asnumpy()
        if image_size is not None:
            stretch(frames, image_size)
    num_frames = sum(len(indices) for _, indices in samples)
    measured = speeds(time.perf_counter() - begun, len(samples), num_frames)
    return measured | {"cpu_s_per_frame": (processor_s() - cpu_s) / num_frames}


def speeds(seconds: float, num_samples: int, num_frames: int) -> dict[str, float]:
    return {"seconds": seconds, "samples_per_s": num_samples / seconds, "frames_per_s": num_frames / seconds}


def write_result(ways: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> None:
    """Medians over the rounds, and ratios to resized decord within each round."""
    base = [run["frames_per_s"] for run in ways.get("decord alone, resized", [])]
    table = {}
    for name, runs in ways.items():
        row: dict[str, Any] = {
            key: round(statistics.median(run[key] for run in runs), 4) for key in runs[0] if key != "seconds"
        }
        row["frames_per_s_rounds"] = [round(run["frames_per_s"], 2) for run in runs]
        if base:
            ratios = [run["frames_per_s"] / other for run, other in zip(runs, base, strict=True)]
            row["over_decord_resized"] = round(statistics.median(ratios), 3)
            row["over_decord_resized_rounds"] = [round(ratio, 3) for ratio in ratios]
            cost = statistics.median(run["cpu_s_per_frame"] for run in ways["decord alone, resized"])
            row["cpu_over_decord_resized"] = round(row["cpu_s_per_frame"] / cost, 3)
        table[name] = row
    result = {
        "files": f"{args.videos} copies of a video, H.264, {args.seconds} s of {SIZE[1]}x{SIZE[0]} at {FPS:g} frames/s",
        "sampling": "1 frame/s; pictures of 384x384, batches of 2",
        "ways": table,
    }
    tell(result, args.json)


if __name__ == "__main__":
    sys.exit(main())
