"""Does pruning find what is redundant? `python -m launch.prune_report [--num 100] [--model FOLDER] [--json FILE]`.

Writes still, slow and busy videos (data/synthetic_redundancy.py), prunes them with launch.prune's own code and prints
how surely their similarity ranks them. A killed run goes on when started again. Exit code: 0, 1 when a ranking that is
judged is not above 0.95, 2 for bad arguments.

Source: ours (docs/pruning.md).
"""

import argparse
import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
from tqdm import tqdm

from configs.prune import get_config
from launch.prune_run import prune, read_config
from launch.whole_file import write_whole
from vxlpro_jax.data.records import write_records
from vxlpro_jax.data.synthetic_redundancy import CHANGING_LIGHT, MOTIONS, STEADY_LIGHT, write_redundancy_set
from vxlpro_jax.eval.ranking import Area, area_under_curve

BAR = 0.95
LIGHTS = {"steady": STEADY_LIGHT, "changing": CHANGING_LIGHT}
POOLINGS = ("patches", "mean")
JUDGED = ("steady", get_config().scoring.pooling)  # as configs/prune.py has it; the others are told without a bar


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launch.prune_report", description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=100, help="videos of each motion (default 100)")
    parser.add_argument("--seed", type=int, default=31, help="of the generated videos (default 31)")
    parser.add_argument("--model", default="", help="whose vision tower: a folder or hub id (default: embedded)")
    parser.add_argument("--workdir", type=Path, default=Path("runs/prune_report"), help="default runs/prune_report")
    parser.add_argument("--workers", type=int, default=2, help="processes that read videos (default 2)")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    args = parser.parse_args(argv)
    if args.num < 2:
        parser.error(f"--num {args.num}: 2 videos of each motion at least")
    try:
        sections = []
        for light in LIGHTS:
            annotations = write_videos(args.workdir / light, light, args.seed, args.num)
            sections += [
                rank(light, pooling, annotations, args.workdir, args.model, args.workers) for pooling in POOLINGS
            ]
        result = {
            "seed": args.seed,
            "num_per_motion": args.num,
            "model": args.model or "embedded",
            "bar": BAR,
            "sections": sections,
            "passed": all(section["passed"] for section in sections if section["judged"]),
        }
        for path in filter(None, (args.workdir / "result.json", args.json)):
            write_whole(path, json.dumps(result, indent=1, allow_nan=False) + "\n")
    except (ValueError, OSError) as error:
        print(f"launch.prune_report: {error}", file=sys.stderr)
        return 2
    print(table(sections, args.num))
    if not result["passed"]:
        print(f"a judged ranking is not above {BAR}", file=sys.stderr)
    return 0 if result["passed"] else 1


def write_videos(folder: Path, light: str, seed: int, num: int) -> Path:
    """The generated videos, as far as they are not there yet, and an annotation file that names them."""
    place = folder / f"seed{seed}"
    files = write_redundancy_set(place, seed, num, most_drift=LIGHTS[light])
    files = tqdm(files, total=num * len(MOTIONS), unit="video", desc=f"writing, {light} light")
    turns = [{"from": "human", "value": "<video>\nWhat is shown?"}, {"from": "gpt", "value": "A pattern."}]
    raw = [{"id": file.motion, "video": str(file.path), "conversations": turns} for file in files]
    annotations = folder / f"seed{seed}-{num}.jsonl"
    write_records(annotations, raw)
    return annotations


def rank(light: str, pooling: str, annotations: Path, workdir: Path, model: str, workers: int) -> dict[str, Any]:
    """Prunes the videos and compares every two motions by their similarity."""
    config = get_config()
    config.mixture, config.model, config.workers = str(annotations), model, workers
    config.scoring.pooling = pooling
    config.subsets.open_ended.value = 1 / len(MOTIONS)
    out = workdir / f"{light}-{pooling}-{annotations.stem}"
    prune(read_config(config), out)
    lines = parquet.read_table(out / "scores.parquet").to_pylist()
    of = {motion: [line for line in lines if Path(line["video"]).name.startswith(motion)] for motion in MOTIONS}
    scores = {motion: [line["similarity"] for line in found] for motion, found in of.items()}
    areas = {f"{a} over {b}": area_under_curve(scores[a], scores[b]) for a, b in combinations(MOTIONS, 2)}
    return {
        "light": light,
        "pooling": pooling,
        "judged": (light, pooling) == JUDGED,
        "passed": all(area.auc > BAR for area in areas.values()),
        "areas": {name: area._asdict() for name, area in areas.items()},
        "median_similarity": {motion: round(float(np.median(values)), 4) for motion, values in scores.items()},
        "kept_of_the_least_redundant_third": {
            motion: round(sum(line["kept"] for line in found) / len(found), 4) for motion, found in of.items()
        },
    }


def table(sections: list[dict[str, Any]], num: int) -> str:
    """The result in Markdown."""
    pairs = list(sections[0]["areas"])
    lines = [
        f"\nArea under the curve, {num} videos of each motion (95 % interval); the bar is {BAR}.\n",
        f"| light | pooling | {' | '.join(pairs)} | median similarity: {', '.join(MOTIONS)} | |",
        "| --- | --- |" + " --- |" * (len(pairs) + 2),
    ]
    for section in sections:
        areas = [Area(**values) for values in section["areas"].values()]
        cells = [f"{area.auc:.3f} ({area.low:.3f} to {area.high:.3f})" for area in areas]
        medians = ", ".join(f"{value:.3f}" for value in section["median_similarity"].values())
        said = ("met" if section["passed"] else "**missed**") if section["judged"] else "no bar"
        lines.append(f"| {section['light']} | {section['pooling']} | {' | '.join(cells)} | {medians} | {said} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
