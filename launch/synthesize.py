"""Write generated videos with known truth: `python -m launch.synthesize --seed N --num K --out DIR`.

Source: ours (docs/tiny.md). DIR gets 00000.mp4 ... and truth.jsonl, a line per question; with --llava also training
data in LLaVA's format (docs/data.md).
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vxlpro_jax.data.records import write_records
from vxlpro_jax.data.synthetic import WORLDS, sample_video
from vxlpro_jax.data.synthetic_files import write_dataset
from vxlpro_jax.data.synthetic_records import video_records, write_pictures


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launch.synthesize", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seed", type=int, required=True, help="seed of the whole set; sample i does not depend on --num"
    )
    parser.add_argument("--num", type=int, required=True, help="number of videos")
    parser.add_argument("--out", required=True, help="folder to write to")
    parser.add_argument("--length-s", type=int, default=64, help="seconds per video (default 64)")
    parser.add_argument("--world", choices=WORLDS, default="standard")
    parser.add_argument("--size", default="112x112", help="WIDTHxHEIGHT, both even (default 112x112)")
    parser.add_argument("--fps", type=float, default=1.0, help="frames per second of the file (default 1)")
    parser.add_argument("--crf", type=int, default=23, help="H.264 quality: smaller is better and larger (default 23)")
    parser.add_argument("--questions-per-kind", type=int, default=1)
    parser.add_argument(
        "--llava", metavar="FILE", help="write a record per question to FILE, a .json list or .jsonl, for training"
    )
    parser.add_argument("--pictures", action="store_true", help="with --llava: a picture of each card, and its record")
    args = parser.parse_args(argv)
    try:
        width, height = (int(part) for part in args.size.split("x"))
    except ValueError:
        parser.error(f"--size {args.size!r}: WIDTHxHEIGHT is accepted, as in 640x360")
    if args.pictures and not args.llava:
        parser.error("--pictures: needs --llava FILE for the records of the pictures")
    options = (args.length_s, args.world, (height, width), args.fps, args.crf, args.questions_per_kind)
    try:
        paths = []
        for path in tqdm(write_dataset(args.out, args.seed, args.num, *options), total=args.num, unit="video"):
            paths.append(path)
        if args.llava:
            write_records(args.llava, _records(args, paths, (height, width)))
    except (ValueError, OSError) as error:
        print(f"launch.synthesize: {error}", file=sys.stderr)
        return 2
    return 0


def _records(args: argparse.Namespace, paths: list[Path], size: tuple[int, int]) -> list[dict[str, Any]]:
    """The records of all videos; their media paths count from the folder of the videos."""
    records = []
    for index, path in enumerate(paths):
        video = sample_video(args.seed, index, args.length_s, args.world)
        records += video_records(video, path.name, args.questions_per_kind)
        if args.pictures:
            records += write_pictures(video, path.parent, path.stem, size)
    return records


if __name__ == "__main__":
    sys.exit(main())
