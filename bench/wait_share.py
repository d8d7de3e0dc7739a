"""The share of time that steps of a training wait for their data: configs/tiny/sft.py on generated videos, a few steps.

    python -m bench.wait_share [--workers 1,2] [--steps 40] [--videos 24] [--json bench/results/wait_share.json]

Every number of workers trains anew from the embedded model. Of the steps the second half counts, when every shape is
compiled and the workers have started. Exit code: 0, 1 when no number of workers keeps the share below 10 %, 2 for bad
arguments.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.report import tell
from configs.tiny import sft
from launch import train_stage
from vxlpro_jax.config import build
from vxlpro_jax.data.records import write_records
from vxlpro_jax.data.synthetic import sample_video
from vxlpro_jax.data.synthetic_files import write_video
from vxlpro_jax.data.synthetic_records import video_records, write_pictures
from vxlpro_jax.loading import EMBEDDED

SEED, LENGTH_S, SIZE = 7, 64, (112, 112)  # as docs/training.md generates them
MOST = 0.10


def write_set(folder: Path, num_videos: int) -> Path:
    """Videos and pictures like those that the tiny stages are trained on; returns the annotation file."""
    records = []
    for index in range(num_videos):
        video = sample_video(SEED, index, LENGTH_S)
        write_video(video, folder / f"{index}.mp4", SIZE, 1.0)
        records += [*video_records(video, f"{index}.mp4"), *write_pictures(video, folder, str(index), SIZE)]
    write_records(folder / "train.jsonl", records)
    return folder / "train.jsonl"


def measure(annotations: Path, workers: int, num_steps: int, workdir: Path) -> dict[str, float]:
    """Train so many steps; what they waited."""
    config = sft.get_config()
    with config.unlocked():
        config.init_from = str(EMBEDDED)
        config.export = False
        config.stage.num_steps = num_steps
        config.optimizer.warmup_steps = 0
        config.loop.update({"log_every": 1, "eval_every": num_steps, "save_every": num_steps, "best_metric": ""})
        del config.data["heldout"]
        config.data.train.update({"mixture": str(annotations), "workers": workers})
    train_stage.run(build(config), workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return waited([line for line in lines if "wait_share" in line])


def waited(steps: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of the second half of the steps, a line of the log each: the share of their time that was waited, and their
    speed."""
    seconds = [1 / line["steps_per_s"] for line in steps[len(steps) // 2 :]]
    wait_s = [line["wait_share"] * took for line, took in zip(steps[len(steps) // 2 :], seconds, strict=True)]
    return {"wait_share": round(sum(wait_s) / sum(seconds), 4), "steps_per_s": round(len(seconds) / sum(seconds), 4)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.wait_share", description=__doc__.splitlines()[0])
    parser.add_argument("--workers", default="1,2", help="numbers of workers, with commas (default 1,2)")
    parser.add_argument("--steps", type=int, default=40, help="of each training, at least 4 (default 40)")
    parser.add_argument("--videos", type=int, default=24, help="generated, each of 64 s (default 24)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file")
    args = parser.parse_args(argv)
    if not all(part.isdecimal() for part in args.workers.split(",")):
        parser.error(f"--workers {args.workers}: numbers with commas between them, as in 1,2")
    if args.steps < 4 or args.videos < 1:
        parser.error(f"--steps {args.steps} --videos {args.videos}: at least 4 steps and 1 video")
    try:
        with tempfile.TemporaryDirectory() as folder:
            annotations = write_set(Path(folder), args.videos)
            found = {
                count: measure(annotations, int(count), args.steps, Path(folder) / f"run{count}")
                for count in args.workers.split(",")
            }
        result = {
            "training": f"configs/tiny/sft.py, {args.steps} steps, {args.videos} videos",
            "workers": found,
        }
        tell(result, args.json)
    except (ValueError, OSError) as error:
        print(f"bench.wait_share: {error}", file=sys.stderr)
        return 2
    return 0 if min(one["wait_share"] for one in found.values()) < MOST else 1


if __name__ == "__main__":
    sys.exit(main())
