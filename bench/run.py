"""Runs measurements, one after the other: all that this environment can, or those that are named.

    python -m bench.run [--only NAME]... [--json FILE]

Ours alone: decode_speed, convert_memory and compression_speed, each of which writes its file in bench/results. Beside
PyTorch (bench/torch_speed.py), in the environment of `make parity`: siglip_1, siglip_8, dts, prefill and decode_step,
written to FILE. Exit code: 0; 1 where a bar is missed or the two sides give different numbers; 2 for bad arguments.

bench/full_size.py is not among them: it needs 20 GB of memory and is started by hand.
"""

import argparse
import datetime
import os
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import compression_speed, convert_memory, decode_speed
from bench.report import tell
from bench.torch_speed import BARS, DifferentNumbersError, compare

OURS_ALONE = {
    "decode_speed": decode_speed.main,
    "convert_memory": lambda: convert_memory.main([]),
    "compression_speed": lambda: compression_speed.main([]),
}
NUM_THREADS = 2
PARITY = "the environment of `make parity` has it: .venv-parity/bin/python -m bench.run"


def beside_torch(names: Sequence[str]) -> dict[str, Any]:
    """What each comparison found."""
    import torch

    from bench.torch_sides import SIDES

    torch.set_num_threads(NUM_THREADS)
    return {name: compare(name, SIDES[name]()) for name in names}


def processor() -> str:
    """The processor's name where Linux tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.run", description=__doc__.splitlines()[0])
    known = (*OURS_ALONE, *BARS)
    parser.add_argument("--only", action="append", metavar="NAME", choices=known, help=f"one of {', '.join(known)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparisons with PyTorch to this file")
    args = parser.parse_args(argv)
    names = args.only or known
    compared = [name for name in names if name in BARS]
    if args.json and not compared:
        parser.error(f"--json {args.json}: {', '.join(names)} writes its own file in bench/results; leave --json out")
    if compared and not find_spec("torch"):
        told = f"{', '.join(compared)}: compared with PyTorch, and torch is not installed here; {PARITY}"
        if args.only or args.json:
            parser.error(told)
        print(f"Left out: {told}")
        compared = []
    for name in names:
        if name in OURS_ALONE:
            OURS_ALONE[name]()
    return told_beside_torch(compared, args.json) if compared else 0


def told_beside_torch(names: Sequence[str], json_file: Path | None) -> int:
    """Compares, prints and writes; the exit code."""
    figures = {
        "command": f"python -m bench.run {shlex.join(f'--only={name}' for name in names)}",
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "versions": {package: version(package) for package in ("jax", "torch", "transformers")},
        "torch_threads": NUM_THREADS,
        "load_average_at_start": [round(value, 1) for value in os.getloadavg()],
    }
    try:
        found = beside_torch(names)
        tell({**figures, "compared": found}, json_file)
    except DifferentNumbersError as error:
        print(f"bench.run: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"bench.run: {error}", file=sys.stderr)
        return 2
    missed = [
        f"{name}: {one['times_as_fast']}, the bar is {one['bar']}" for name, one in found.items() if not one["holds"]
    ]
    for line in missed:
        print(f"bench.run: missed: {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
