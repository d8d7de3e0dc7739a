"""Make the embedded model from nothing: `make tiny`, or `python -m launch.make_tiny [--workdir runs/tiny] [--out DIR]`.

Source: ours (docs/tiny.md). Runs every stage of configs/tiny/ in order and prints the seconds each took; a stage that
is done is not done again, and a killed one goes on where it stopped. The result is written in the released layout. Exit
codes are those of launch/train.py.
"""

import argparse
import importlib
import json
import shutil
import sys
import time
from pathlib import Path

import jax

from launch import recot_run
from launch.clip_stage import EXPORT_FOLDER
from launch.command_line import failures_told
from launch.train_stage import run, stage_params
from launch.whole_file import write_whole
from vxlpro_jax.config import build
from vxlpro_jax.convert.conversion import save_params_as
from vxlpro_jax.data.tokenizer import released_ids, save_tiny_tokenizer
from vxlpro_jax.models.presets import PRESETS
from vxlpro_jax.train.recot_stage import ReCoTRunConfig

ANSWERS = ("answers_align", "answers_short", "answers_mid", "answers_long", "answers_settled")
STAGES = ("tower", "recot", "groups", "words", *ANSWERS)
# The model is the mean of these stages' parameters: the last one guesses where it should, and is a little too ready to;
# the mean keeps the one and loses the other (docs/tiny.md).
AVERAGED_STAGES = ANSWERS[-2:]
SECONDS_FILE = "seconds.json"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launch.make_tiny", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--workdir", type=Path, default=Path("runs/tiny"), help="folder of the stages (default runs/tiny)"
    )
    parser.add_argument("--out", type=Path, help="folder of the finished model (default WORKDIR/model)")
    args = parser.parse_args(argv)
    out = args.out or args.workdir / "model"
    if out.exists():
        parser.error(f"--out {out} exists: remove it, or name another folder")
    with failures_told("launch.make_tiny"):
        make(args.workdir)
        export([args.workdir / name for name in AVERAGED_STAGES], out)
    print(f"the model is in {out}")
    return 0


def make(workdir: Path) -> None:
    """Run all stages below workdir."""
    seconds = _read_seconds(workdir)
    before = ""
    for name in STAGES:
        values = importlib.import_module(f"configs.tiny.{name}").get_config().unlock()
        started = time.perf_counter()
        if "recot" in values:
            values.tower = str(released_model(workdir / before))
            recot_run.run(build(values, ReCoTRunConfig), workdir / name)
        else:
            values.init_from = str(workdir / before) if before else ""
            if "dts" in values.parts:
                values.parts.dts = str(workdir / "recot")
            run(build(values), workdir / name)
            before = name
        # What a killed run had spent is counted too, as far as it was written down.
        seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - started, 1)
        _write_seconds(workdir, seconds)
        print(f"{name}: {seconds[name]:.0f} s (all so far: {sum(seconds.values()):.0f} s)", flush=True)


def released_model(stage: Path) -> Path:
    """A finished stage's model in the released layout, from which the reconstructive stage takes its tower."""
    out = stage / EXPORT_FOLDER
    if not out.exists():
        export([stage], out, "float32")
    return out


def export(stages: list[Path], out: Path, dtype: str = "bfloat16") -> None:
    """Write the mean of finished stages' models in the released layout, with the embedded tokenizer."""
    sizes = PRESETS["tiny"]
    params = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *(stage_params(stage, sizes) for stage in stages))
    folder = stages[-1] / "tokenizer"
    ids = released_ids(save_tiny_tokenizer(folder))
    save_params_as(out, sizes, params, "torch", tokenizer_folder=folder, released=ids, dtype=dtype)
    shutil.rmtree(folder)


def _read_seconds(workdir: Path) -> dict[str, float]:
    path = workdir / SECONDS_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _write_seconds(workdir: Path, seconds: dict[str, float]) -> None:
    write_whole(workdir / SECONDS_FILE, json.dumps(seconds, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
