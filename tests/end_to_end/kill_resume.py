"""Kill a command at random moments and start it again, until it is done: what comes out must be what comes out of a run
that nobody disturbed, to the bit.

python tests/end_to_end/kill_resume.py --kills 20 --target train|index|prune [--signal TERM] [--seed N] [--json FILE]
Half of the kills come at a random time, half shortly after something was written, where a save may be under way. A run
that gets to its end before its kill is compared and begun anew in an empty folder. Exit code: 0 all identical, 1 not.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

EXIT_STOPPED = 75
# What a clock or the machine says, and no computation; rounds_dropped is of the process.
LEFT_OUT = {"seconds", "wait_share", "memory_gib", "host_gib", "rounds_dropped"}
TIMED = ("_per_s", "mfu")


@dataclass(frozen=True)
class Target:
    """prepare: makes the inputs in a folder, once. command: (inputs, work folder) -> what is run. results: (work
    folder) -> what must not depend on kills, by name. is_done: whether the command had nothing left to do when it was
    killed, and would refuse to run again."""

    prepare: Callable[[Path], None]
    command: Callable[[Path, Path], list[str]]
    results: Callable[[Path], dict[str, Any]]
    is_done: Callable[[Path], bool] = lambda work: False


def synthesize(folder: Path, num: int, length_s: int) -> None:
    args = ["--seed", "77", "--num", str(num), "--length-s", str(length_s), "--out", str(folder / "clips")]
    records = ["--llava", str(folder / "clips" / "clips.jsonl")]  # no pictures: a shape less to compile
    subprocess.run([sys.executable, "-m", "launch.synthesize", *args, *records], check=True, cwd=REPOSITORY)


def train_command(inputs: Path, work: Path) -> list[str]:
    values = {"init_from": "vxlpro_jax/assets/tiny", "stage.num_steps": 12, "optimizer.warmup_steps": 2}
    values |= {"stage.micro_batches": 1, "heldout.num_answers": 0, "heldout.num_batches": 1, "export": False}
    values |= {"loop.log_every": 1, "loop.eval_every": 6, "loop.save_every": 2, "loop.prefetch": 2}
    for name in ("train", "heldout"):
        values |= {
            f"data.{name}.mixture": inputs / "clips" / "clips.jsonl",
            f"data.{name}.workers": 1 if name == "train" else 0,
            f"data.{name}.buckets.pictures.batch_size": 2,
            f"data.{name}.buckets.videos.batch_size": 2,
            f"data.{name}.buckets.videos.num_groups": 4,
        }
    changes = [f"--config.{key}={value}" for key, value in values.items()]
    return [*("-m", "launch.train", "--config=configs/tiny/align.py", f"--workdir={work}"), *changes]


def train_results(work: Path) -> dict[str, Any]:
    from vxlpro_jax.checkpoint import read_some, stored_params
    from vxlpro_jax.train.run_log import read_log

    lines = [
        {name: value for name, value in line.items() if name not in LEFT_OUT and not name.endswith(TIMED)}
        for line in read_log(work)
    ]
    leaves = read_some(work / "model", stored_params(work / "model"))
    digests = {path: hashlib.sha256(leaf.tobytes()).hexdigest() for path, leaf in leaves.items()}
    return {"log": lines, "parameters": digests, "broken": (work / "data" / "train" / "broken.jsonl").read_text()}


def index_command(inputs: Path, work: Path) -> list[str]:
    return ["-m", "vxlpro_jax.cli", "index", str(inputs / "clips" / "00000.mp4"), "-o", str(work / "video.vxl")]


def all_files(work: Path) -> dict[str, Any]:
    return {path.name: digest(path) for path in sorted(work.rglob("*")) if path.is_file()}


def index_is_complete(work: Path) -> bool:
    """The command refuses to write an index anew that is whole."""
    header = work / "video.vxl" / "header.json"
    return header.exists() and json.loads(header.read_text())["state"] == "complete"


def prune_command(inputs: Path, work: Path) -> list[str]:
    data = inputs / "clips"
    changes = [f"--config.mixture={data / 'clips.jsonl'}", f"--config.root={data}"]
    return ["-m", "launch.prune", "--config=configs/prune.py", *changes, f"--workdir={work}"]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


TARGETS = {
    "train": Target(lambda folder: synthesize(folder, 3, 32), train_command, train_results),
    "index": Target(lambda folder: synthesize(folder, 1, 2048), index_command, all_files, index_is_complete),
    "prune": Target(lambda folder: synthesize(folder, 24, 32), prune_command, all_files),
}


def start(target: Target, inputs: Path, work: Path, log: Path) -> subprocess.Popen:
    """The command in a process group of its own, so that a kill takes its workers along."""
    work.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as output:
        command = [sys.executable, *target.command(inputs, work)]
        return subprocess.Popen(command, cwd=REPOSITORY, stdout=output, stderr=output, start_new_session=True)


def finish(target: Target, inputs: Path, work: Path, log: Path) -> dict[str, Any]:
    """Run to the end; what came out."""
    code = start(target, inputs, work, log).wait()
    if code:
        raise RuntimeError(f"the command ended with {code}:\n{log.read_text()[-3000:]}")
    return target.results(work)


def newest(work: Path) -> float:
    """When something was written last."""
    found = 0.0
    for path in work.rglob("*"):
        try:
            found = max(found, path.stat().st_mtime)
        except FileNotFoundError:
            continue  # renamed meanwhile
    return found


def wait_for_moment(process: subprocess.Popen, work: Path, rng: random.Random, usual_s: float) -> str:
    """Sleep until a random moment; says which kind of moment it was."""
    end = time.monotonic() + 3 * usual_s
    if rng.random() < 0.5:
        delay = rng.uniform(0, usual_s)
        end = time.monotonic() + delay
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.02)
        return f"after {delay:.2f} s"
    before, writes = newest(work), rng.randint(1, 8)
    for _ in range(writes):
        while (latest := newest(work)) <= before and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        before = latest
    delay = rng.uniform(0, 0.3)
    time.sleep(delay)
    return f"{delay:.2f} s after write {writes}"


def torture(target: Target, folder: Path, kills: int, seed: int, number: signal.Signals) -> dict[str, Any]:
    """Kill and compare; what happened."""
    rng = random.Random(seed)
    target.prepare(folder)
    began = time.monotonic()
    wanted = finish(target, folder, folder / "whole", folder / "log.txt")
    usual_s = time.monotonic() - began
    began = time.monotonic()
    wanted_again = finish(target, folder, folder / "warm", folder / "log.txt")  # compiled programs are cached now
    usual_s = min(usual_s, time.monotonic() - began)
    moments, rounds, work = [], 0, folder / "cut"
    differing = [] if wanted == wanted_again else ["two undisturbed runs"]
    while len(moments) < kills and not differing:
        process = start(target, folder, work, folder / "log.txt")
        moment = wait_for_moment(process, work, rng, usual_s)
        if process.poll() is None:
            os.killpg(process.pid, number)
            code = process.wait()
            if code not in (-number, EXIT_STOPPED, 0):
                raise RuntimeError(f"the command ended with {code}:\n{(folder / 'log.txt').read_text()[-3000:]}")
            moments.append(f"{moment}: exit {code}")
            print(f"{len(moments)} of {kills}: {moments[-1]}", flush=True)
            if not target.is_done(work):
                continue
        elif process.returncode:
            raise RuntimeError(f"after kills, exit {process.returncode}:\n{(folder / 'log.txt').read_text()[-3000:]}")
        rounds += 1
        differing += compare(wanted, target.results(work))
        shutil.rmtree(work)
    differing += compare(wanted, finish(target, folder, work, folder / "log.txt"))
    return {"kills": len(moments), "runs_compared": rounds + 1, "differing": differing, "moments": moments}


def compare(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Names of results that differ."""
    return sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="kill_resume", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--target", choices=TARGETS, default="train")
    parser.add_argument("--signal", choices=("KILL", "TERM"), default="KILL")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ["PYTHONPATH"] = str(REPOSITORY)
    with tempfile.TemporaryDirectory(prefix="kill_resume_") as folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{folder}/jax")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        began = time.monotonic()
        number = getattr(signal, f"SIG{args.signal}")
        result = {"target": args.target, **torture(TARGETS[args.target], Path(folder), args.kills, args.seed, number)}
    result["seconds"] = round(time.monotonic() - began, 1)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    verdict = f"DIFFERENT: {result['differing']}" if result["differing"] else "all identical"
    print(f"{args.target}: {result['kills']} kills, {result['runs_compared']} runs compared, {verdict}")
    return 1 if result["differing"] else 0


if __name__ == "__main__":
    sys.exit(main())
