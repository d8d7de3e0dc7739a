"""Write generated videos with known truth: `python -m launch.synthesize --seed N --num K --out DIR`.

Source: ours (docs/tiny.md). DIR gets 00000.mp4 ... and truth.jsonl, a line per question.
"""

import argparse
import sys

from tqdm import tqdm

from vxlpro_jax.data.synthetic import WORLDS
from vxlpro_jax.data.synthetic_files import write_dataset


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
    args = parser.parse_args(argv)
    try:
        width, height = (int(part) for part in args.size.split("x"))
    except ValueError:
        parser.error(f"--size {args.size!r}: WIDTHxHEIGHT is accepted, as in 640x360")
    options = (args.length_s, args.world, (height, width), args.fps, args.crf, args.questions_per_kind)
    try:
        for _ in tqdm(write_dataset(args.out, args.seed, args.num, *options), total=args.num, unit="video"):
            pass
    except (ValueError, OSError) as error:
        print(f"launch.synthesize: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
