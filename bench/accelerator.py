"""What this project does on a GPU or another accelerator: whether it is right there, how fast, and in how much memory.

    launch/gpu_check.sh                                   # holds the process to 80 GB and runs what follows
    python -m bench.accelerator [--only SECTION ...] [--json FILE] [--again]
    python -m bench.accelerator --device cpu --size tiny  # runs through everything, to test the program itself

Sections, in this order: kernels (of attention, against XLA's float32 there), correctness (bfloat16 and float32 there
against float32 on the host), encode, selected, second, decode, whole: docs/gpu.md says what each measures. Each is
written to the file when it is done; the same command goes on after the last one (--again measures anew). Goals are
judged on the device that they are stated for, elsewhere told.

Exit code: 0; 1 when results are wrong, a section fails, or a goal is missed where it counts; 2 for bad arguments, and
where there is no accelerator.
"""

import argparse
import hashlib
import json
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bench.accelerator_speed import (
    SIZES,
    Subject,
    measure_decode,
    measure_encode,
    measure_second,
    measure_selected,
    measure_whole,
    timed,
)
from bench.agreement import compare, compare_kernels
from bench.report import tell
from launch.whole_file import write_whole
from vxlpro_jax.program_cache import keep_programs

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "bench" / "results"
# In an order in which memory grows: the device tells the most that was held since the process began.
SECTIONS: dict[str, Callable[[Subject], dict[str, Any]]] = {
    "kernels": lambda subject: compare_kernels(subject.config),
    "correctness": lambda subject: compare(subject.config, subject.seed, subject.device),
    "encode": measure_encode,
    "selected": measure_selected,
    "second": measure_second,
    "decode": measure_decode,
    "whole": measure_whole,
}
# What can end a section, and leaves the others worth running: no memory, a program that a device cannot run, noise.
FAILURES = (RuntimeError, ValueError, ArithmeticError, MemoryError, NotImplementedError, OSError)


class Goal(NamedTuple):
    """name: what is measured, with its unit. of: the figure among the sections' results; None while it is not there."""

    name: str
    at_most: float
    of: Callable[[dict[str, Any]], float | None]


GOAL_DEVICE, GOAL_SIZE = "h200", "3b"
GOALS = (
    Goal("seconds, 8,192 frames indexed and an answer, selected", 12.2, lambda done: _figure(done, "selected")),
    Goal("seconds, 8,192 frames indexed and an answer, whole", 50.0, lambda done: _figure(done, "whole")),
    Goal("GiB, at most held at once", 60.0, lambda done: _largest(done, "peak_gib", 1)),
    Goal("GB, that the process could have", 80.0, lambda done: _largest(done, "limit_bytes", 1e9)),
)


def _figure(done: dict[str, Any], section: str) -> float | None:
    return done.get(section, {}).get("total_s")


def _largest(done: dict[str, Any], name: str, unit: float) -> float | None:
    told = [section["memory"][name] for section in done.values() if "memory" in section]
    return max((value / unit for value in told if value is not None), default=None)


def judged(done: dict[str, Any], device: str, size: str) -> list[dict[str, Any]]:
    """The goals beside what was measured; met: None where that says nothing about the goal."""
    counts = (device, size) == (GOAL_DEVICE, GOAL_SIZE)
    rows = []
    for goal in GOALS:
        measured = goal.of(done)
        met = measured <= goal.at_most if counts and measured is not None else None
        stated_for = f"{GOAL_DEVICE}, {GOAL_SIZE}"
        rows.append(
            {"goal": goal.name, "at_most": goal.at_most, "measured": measured, "met": met, "stated_for": stated_for}
        )
    return rows


def find_device(wanted: str) -> Any:
    """The first device of a kind. Raises ValueError where there is none, or where the host's processor, whose float32
    is the reference, is hidden."""
    if wanted == "cpu":
        jax.config.update("jax_platforms", "cpu")
    try:
        device = jax.devices(None if wanted == "auto" else wanted)[0]
    except RuntimeError as error:
        raise ValueError(f"no device of kind {wanted!r} ({error})") from error
    if wanted == "auto" and device.platform == "cpu":
        raise ValueError(
            "no accelerator: jax finds this machine's processor alone. Install jax for the device (docs/gpu.md), or "
            "try the program itself with --device cpu --size tiny"
        )
    try:
        jax.devices("cpu")
    except RuntimeError as error:
        raise ValueError(
            "the host's processor, which computes the reference, is hidden by JAX_PLATFORMS: leave it unset, or name "
            "cpu in it too, last"
        ) from error
    return device


def code_digest() -> str:
    """Of all that is measured and measures: figures of other code are not continued."""
    digest = hashlib.blake2b(digest_size=8)
    for folder in ("vxlpro_jax", "bench"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def earlier_sections(path: Path, setting: dict[str, Any]) -> dict[str, Any]:
    """What a run in the same setting left in the file. Raises ValueError where the file is something else."""
    if not path.exists():
        return {}
    try:
        left = json.loads(path.read_text(encoding="utf-8"))
        differs = sorted(key for key in setting if left["setting"].get(key) != setting[key])
        sections = {name: section for name, section in left["sections"].items() if "failed" not in section}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no result of this program: name another file with --json") from error
    if differs:
        print(f"{path}: measured with another {', '.join(differs)}; everything is measured anew")
    return {} if differs else sections


def run(
    subject: Subject, setting: dict[str, Any], wanted: Sequence[str], path: Path, again: bool = False
) -> dict[str, Any]:
    """Measures what is wanted and not yet there; the file holds what is done at any time."""
    done = earlier_sections(path, setting)
    for name, measure in SECTIONS.items():
        if name not in wanted or (name in done and not again):
            print(f"{name}: {'left out' if name not in wanted else f'done before, see {path}'}", flush=True)
            continue
        print(f"{name}: ...", flush=True)
        try:
            figures, seconds = timed(lambda measure=measure: measure(subject))
            done[name] = {**figures, "memory": subject.memory(), "section_s": seconds}
        except FAILURES as error:
            done[name] = {"failed": f"{type(error).__name__}: {error}"[:2000]}
        print(f"{name}: {json.dumps(done[name])}", flush=True)
        write_whole(path, json.dumps(summary(setting, done), indent=1) + "\n")
    return summary(setting, done)


def summary(setting: dict[str, Any], done: dict[str, Any]) -> dict[str, Any]:
    """What the file holds. holds: whether nothing that was run is wrong, failed, or missed a goal."""
    sections = {name: done[name] for name in SECTIONS if name in done}
    goals = judged(sections, setting["device"], setting["size"])
    is_sound = all("failed" not in section and section.get("holds", True) for section in sections.values())
    return {
        "command": "python -m bench.accelerator",
        "setting": setting,
        "sections": sections,
        "missing": [name for name in SECTIONS if name not in done],
        "goals": goals,
        "holds": is_sound and all(goal["met"] is not False for goal in goals),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.accelerator", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("auto", "gpu", "tpu", "cpu"), default="auto")
    parser.add_argument("--size", choices=sorted(SIZES), default="3b")
    parser.add_argument("--only", choices=tuple(SECTIONS), nargs="+", default=tuple(SECTIONS), metavar="SECTION")
    parser.add_argument("--again", action="store_true", help="measure what is in the file already, too")
    parser.add_argument("--seed", type=int, default=0, help="of weights and frames (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: bench/results/gpu_check_DEVICE.json")
    args = parser.parse_args(argv)
    if args.device == "cpu" and args.size != "tiny":
        parser.error(f"--device cpu --size {args.size}: on a processor --size tiny is accepted")
    try:
        device = find_device(args.device)
        keep_programs()
        subject = Subject(SIZES[args.size], args.seed, device)
        setting = {
            "device": subject.name,
            "device_kind": device.device_kind,
            "size": args.size,
            "seed": args.seed,
            "python": platform.python_version(),
            "jax": jax.__version__,
            "code": code_digest(),
        }
        path = (
            args.json or RESULTS / f"gpu_check_{subject.name}{'' if args.size == GOAL_SIZE else f'_{args.size}'}.json"
        )
        result = run(subject, setting, args.only, path, args.again)
        tell(result, path)
    except (ValueError, OSError) as error:
        print(f"bench.accelerator: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench.accelerator: stopped; the same command goes on with the next section", file=sys.stderr)
        return 130
    for goal in result["goals"]:
        said = {None: "told, not judged", True: "met", False: "MISSED"}[goal["met"]]
        measured = "not measured" if goal["measured"] is None else f"measured {goal['measured']:.4g}"
        print(f"{goal['goal']}: at most {goal['at_most']}, {measured} ({said})")
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
