"""Compare arms of one training over seeds: `python -m launch.ablate --config=configs/ablations/X.py --workdir=DIR`.

More: [--config.KEY=VALUE] [--json=FILE]. Each run is a stage of launch/train.py in DIR-ARM-SEED (beside DIR, so that
all share the banks there); a run that is done is not done again, a killed one goes on. DIR gets result.json, result.md
and result.png. Exit code: 0, 1 when a claim of the configuration does not hold, else as launch/train.py.

Source: ours.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
from absl import logging
from ml_collections import ConfigDict

from launch import train_stage
from launch.command_line import run_study
from launch.starting_point import check_sources
from launch.whole_file import write_whole, written_whole
from vxlpro_jax.config import TrainConfig, build, check
from vxlpro_jax.eval.arms import Claim, summarise, to_markdown

matplotlib.use("Agg")  # before pyplot: no window is wanted
from matplotlib import pyplot  # noqa: E402

COMMAND = "launch.ablate"
PANELS_ABREAST = 4
OPTIONS = {"workdir": "folder of the result; the runs stand beside it", "json": "also write the result to this file"}


@dataclass(frozen=True)
class ArmsConfig:
    """What configs/ablations/*.py of this command hold.

    stage: of which every arm is a variant. arms: by name, what differs, in blocks as the stage has them. seeds: added
    to the stage's own; "{seed}" in a source of config.parts becomes the seed. marks: held-out figures (metrics.jsonl,
    without "eval_") that are shown. claims: by name, which arm is above which in which mark.
    """

    stage: TrainConfig
    arms: dict[str, ConfigDict]
    seeds: tuple[int, ...]
    marks: tuple[str, ...]
    claims: dict[str, Claim]


def read_config(config: ConfigDict) -> tuple[ArmsConfig, dict[tuple[str, int], TrainConfig]]:
    """The settings, and the stage of every run by (arm, seed). Raises ValueError before anything is run."""
    settings = build(config, ArmsConfig)
    for name, claim in settings.claims.items():
        unknown = [value for value, known in _spoken_of(claim, settings) if value not in known]
        if unknown:
            raise ValueError(
                f"config.claims.{name} speaks of {unknown}: config.arms and config.marks have no such name."
            )
    runs = {}
    for arm, changes in settings.arms.items():
        for seed in settings.seeds:
            values = config.stage.copy_and_resolve_references().unlock()
            values.update(changes)
            values.seed += seed
            values.parts = {name: source.format(seed=seed) for name, source in values.parts.items()}
            runs[arm, seed] = build(values, where=f"config.arms.{arm}")
    return settings, runs


def _spoken_of(claim: Claim, settings: ArmsConfig) -> list[tuple[str, Any]]:
    return [(claim.better, settings.arms), (claim.worse, settings.arms), (claim.mark, settings.marks)]


def check_runs(stages: dict[tuple[str, int], TrainConfig]) -> None:
    """Raise ValueError where a run could not begin: what does not fit together, or sources that an earlier command has
    not made yet; all of them are told, each once."""
    faults: dict[str, str] = {}
    for (arm, seed), stage in stages.items():
        try:
            check_sources(stage, check(stage))
        except ValueError as error:
            faults.setdefault(str(error), f"config.arms.{arm}, seed {seed}")
    if faults:
        raise ValueError("; ".join(f"{where}: {said}" for said, where in faults.items()))


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Do the runs that are not done yet; returns and writes the result."""
    settings, stages = read_config(config)
    check_runs(stages)
    workdir.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in settings.arms}
    for number, ((arm, seed), stage) in enumerate(stages.items()):
        print(f"run {number + 1} of {len(stages)}: {arm}, seed {seed}", flush=True)
        folder = workdir.with_name(f"{workdir.name}-{arm}-{seed}")
        train_stage.run(stage, folder)
        marks = last_marks(folder / "metrics.jsonl")
        if missing := [mark for mark in settings.marks if mark not in marks]:
            raise ValueError(f"config.marks has {missing}: a run's held-out figures are {sorted(marks)}.")
        found[arm].append(marks)
    result = summarise(found, settings.marks, list(settings.claims.values()))
    result |= {"seeds": list(settings.seeds), "config": {name: asdict(stage) for (name, _), stage in stages.items()}}
    write_whole(workdir / "result.json", json.dumps(result, indent=1) + "\n")
    write_whole(workdir / "result.md", to_markdown(result, settings.marks))
    draw(result, settings.marks, workdir / "result.png")
    return result


def last_marks(metrics: Path) -> dict[str, float]:
    """The last held-out figures of a run's log, by name without "eval_"."""
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    marks = [{key[5:]: value for key, value in line.items() if key.startswith("eval_")} for line in lines]
    return [line for line in marks if line][-1]


def draw(result: dict[str, Any], marks: tuple[str, ...], path: Path) -> None:
    """A picture: one panel per mark, a dot per seed and a line at each arm's mean."""
    columns = min(len(marks), PANELS_ABREAST)
    figure = pyplot.figure(figsize=(3.2 * columns, 3.4 * -(-len(marks) // columns)))
    for number, mark in enumerate(marks):
        panel = figure.add_subplot(-(-len(marks) // columns), columns, number + 1)
        for place, found in enumerate(result["arms"].values()):
            panel.plot([place] * len(found[mark]["values"]), found[mark]["values"], "o", alpha=0.6)
            panel.hlines(found[mark]["mean"], place - 0.3, place + 0.3, color="black")
        panel.set_xticks(range(len(result["arms"])), list(result["arms"]), rotation=40, ha="right")
        panel.set_title(mark)
    figure.tight_layout()
    with written_whole(path) as part:
        figure.savefig(part, dpi=100, metadata={"Software": None})
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> int:
    logging.set_verbosity(logging.WARNING)
    config, result = run_study(COMMAND, argv, OPTIONS, run)
    print(to_markdown(result, config.marks))
    return 0 if all(claim["holds"] for claim in result["claims"]) else 1


if __name__ == "__main__":
    sys.exit(main())
