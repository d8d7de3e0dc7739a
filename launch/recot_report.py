"""Report what the reconstructive stage does: `python -m launch.recot_report --config=configs/tiny/recot_report.py`.

More: [--config.KEY=VALUE] [--workdir=DIR] [--json=FILE]. DIR gets a folder per arm and seed, report.json, report.md and
two pictures; an arm that is done is not run again, and a killed one goes on. Exit code: 0, 1 when a claim does not
hold, else as launch/train.py.

Source: paper 3.2 and Table 6; docs/recot.md.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from launch.command_line import failures_told, read_command
from launch.recot_clips import ShardedClips, clip_encoder, generated_bank, prepare_clips
from launch.recot_page import claims_of, draw_masks, draw_runs, page_of
from launch.recot_run import recot_params, train_arm, train_step
from launch.run_record import check_record
from launch.starting_point import save_model
from launch.whole_file import write_whole
from vxlpro_jax.config import build
from vxlpro_jax.data.synthetic_bank import GroupBank
from vxlpro_jax.data.synthetic_foreground import CAST, ForegroundClips, foreground_clips
from vxlpro_jax.eval.reconstruction import clip_codes
from vxlpro_jax.eval.recot_measures import (
    LabelledClips,
    clip_labels,
    frame_order,
    in_groups,
    masked_foreground,
    probe_codes,
    query_gradients,
)
from vxlpro_jax.loading import load
from vxlpro_jax.models.recot import ReCoTModel, count_params
from vxlpro_jax.train.recot_stage import TRAINABLE, ReCoTRunConfig, ReCoTStage
from vxlpro_jax.train.state import Params

FIGURES_FILE = "figures.json"
COMMAND = "launch.recot_report"
WORKDIR = "runs/ablations/recot"  # where configs/ablations/compression.py looks for its DTSs
OPTIONS = {
    "workdir": f"folder of the report (default: {WORKDIR})",
    "json": "also write the report to this file",
}


@dataclass(frozen=True)
class ReportConfig:
    """run: the stage that all arms share. arms: by name, what an arm changes in it. seeds: of training, added to the
    run's. probe_clips: training clips on which probes are fitted. foreground_clips, foreground_seed: of the clips whose
    foreground is known."""

    run: ConfigDict
    seeds: tuple[int, ...]
    arms: dict[str, ConfigDict]
    probe_clips: int
    foreground_clips: int
    foreground_seed: int


@dataclass
class Material:
    """What all arms are measured on."""

    config: ReportConfig
    run: ReCoTRunConfig
    clips: ShardedClips
    sample: np.ndarray
    model_params: Params
    folder: Path

    @cached_property
    def known(self) -> ForegroundClips:
        vision, data = self.clips.stage.vision, self.run.data
        grid = self.clips.stage.model.dts_config.grid_size
        count, seed = self.config.foreground_clips, self.config.foreground_seed
        return foreground_clips(seed, count, data.clip_frames, vision.image_size, grid)

    def groups(self) -> dict[str, np.ndarray]:
        """ShardedClips with known foreground by what is in them: the share of them that repeats itself differs."""
        is_mover, lasts = self.known.kind == CAST.index("mover"), self.known.shown.all(1)
        return {"still_cards": ~is_mover & lasts, "brief_cards": ~is_mover & ~lasts, "movers": is_mover}

    @cached_property
    def known_features(self) -> np.ndarray:
        return clip_encoder(self.clips.stage, self.clips.tower)(self.known.frames).astype(np.float32)

    @cached_property
    def labelled(self) -> tuple[LabelledClips, LabelledClips]:
        """Training and held-out clips, and what each shows."""
        size = self.clips.stage.vision.image_size
        parts = []
        for heldout in (False, True):
            ids = self.clips.heldout_ids(self.config.probe_clips) if heldout else self.clips.train_ids()
            ids = ids[~self.clips.shards.is_image[ids]]
            if not heldout:
                ids = ids[np.unique(np.linspace(0, len(ids) - 1, self.config.probe_clips).astype(int))]
            first = int(np.flatnonzero(self.clips.is_heldout)[0]) if heldout else 0
            bank: GroupBank = generated_bank(self.run, size, self.folder, heldout)
            features, chosen = np.concatenate(list(self.clips.features(ids))), ids - first
            parts.append(LabelledClips(features, clip_labels(bank, chosen), bank.shown[chosen]))
        return parts[0], parts[1]


def report(config: ReportConfig, workdir: Path) -> dict[str, Any]:
    """Run every arm with every seed, measure them, and tell what holds; writes report.json, report.md and pictures."""
    run = build(config.run, ReCoTRunConfig, "config.run")
    if run.data.source != "generated" or run.data.keep != "features":
        raise ValueError("config.run.data: a report is about generated clips with kept features")
    if run.mesh:
        raise ValueError(f"config.run.mesh={run.mesh}: a report runs on one device; leave it empty")
    loaded = load(run.tower or None, dtype="float32")
    stage = ReCoTStage.of(run, loaded.config.vision, loaded.config.dts)
    clips = prepare_clips(run, stage, loaded.params["vision_tower"], workdir / "clips", workdir)
    material = Material(config, run, clips, clips.sample(), loaded.params, workdir)
    arms = {name: run_arm(name, changes, material) for name, changes in config.arms.items()}
    found = {"clip_frames": run.data.clip_frames, "steps": run.num_steps, "batch_size": run.batch_size, "arms": arms}
    found["tower_probes"] = tower_probes(material)
    found["claims"] = claims_of(arms)
    workdir.mkdir(parents=True, exist_ok=True)
    write_whole(workdir / "report.json", json.dumps(found, indent=1) + "\n")
    write_whole(workdir / "report.md", page_of(found))
    draw_runs(found, {name: workdir / f"{name}_{config.seeds[0]}" for name in arms}, workdir / "recot_runs.png")
    return found


def run_arm(name: str, changes: ConfigDict, material: Material) -> list[dict[str, Any]]:
    """The figures of an arm, one entry per seed; the compiled step is shared by the seeds.

    Raises ValueError for a run that was made with another configuration; one that was measured otherwise is measured
    again.
    """
    settings = material.config
    how = {key: getattr(settings, key) for key in ("probe_clips", "foreground_clips", "foreground_seed")}
    values = ConfigDict(material.config.run.to_dict())
    values.update(changes)
    first = build(values, ReCoTRunConfig, f"config.arms.{name}")
    stage = material.clips.stage._replace(model=ReCoTModel(first.recot, material.clips.stage.model.dts_config))
    step = train_step(first, stage)
    found = []
    for seed in material.config.seeds:
        folder = material.folder / f"{name}_{seed}"
        path = folder / FIGURES_FILE
        values.seed = material.run.seed + seed
        config = build(values, ReCoTRunConfig, f"config.arms.{name}")
        check_record(config, folder, allow_changes=False)
        figures = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if figures.get("measured") != how:
            figures = {"seed": seed, "measured": how, **one_run(config, stage, step, material, folder)}
            write_whole(path, json.dumps(figures, indent=1) + "\n")
        found.append(figures)
    return found


def one_run(
    config: ReCoTRunConfig, stage: ReCoTStage, step: Callable, material: Material, folder: Path
) -> dict[str, Any]:
    """Train one arm with one seed and measure it."""
    clips = ShardedClips(config, stage, material.clips.tower, material.clips.shards)
    params = recot_params(config, stage, material.model_params, material.sample)
    shares = {"decoder_share": count_params(params["decoder"]) / count_params(params["dts"])}
    params, figures = train_arm(config, clips, params, step, material.sample, folder)
    save_model({name: params[name] for name in TRAINABLE}, folder)  # config.parts.dts of a stage may name it
    train, heldout = material.labelled
    group = config.recot.dts_of(stage.model.dts_config).frames_per_group
    of_train, of_heldout = (in_groups(clips, group) for clips in (train, heldout))

    def encode(features: np.ndarray) -> np.ndarray:
        size = config.batch_size
        parts = [features[start : start + size] for start in range(0, len(features), size)]
        fill = np.repeat(parts[-1][-1:], size - len(parts[-1]), axis=0)  # one shape, compiled once
        codes = clip_codes(stage.model, params, [*parts[:-1], np.concatenate([parts[-1], fill])])
        return np.concatenate(list(codes))[: len(features)]

    batch = clips.batches()(0)
    known = material.known_features
    seed, groups = config.seed % 2**31, material.groups()
    foreground, masks = masked_foreground(stage.model, params, known, material.known.foreground, groups, seed)
    figures |= {
        **shares,
        "probes": probe_codes(encode, train, heldout),
        "order": frame_order(encode, of_train[0], of_heldout[0], of_train[1], of_heldout[1]),
        "foreground": foreground,
        "query_gradients": query_gradients(stage, params, batch),
    }
    if config.recot.sgm.masking == "semantic":
        draw_masks(material.known, masks, folder / "masks.png")
    return figures


def tower_probes(material: Material) -> dict[str, Any]:
    """The probes on what the tower itself gives: one code per frame of the clip, laid side by side."""
    return probe_codes(lambda features: features, *material.labelled)


def main(argv: list[str] | None = None) -> int:
    logging.set_verbosity(logging.WARNING)
    config, options = read_command(COMMAND, sys.argv[1:] if argv is None else argv, OPTIONS)
    with failures_told(COMMAND):
        found = report(build(config, ReportConfig), Path(options["workdir"] or WORKDIR))
        if options["json"]:
            write_whole(Path(options["json"]), json.dumps(found, indent=1) + "\n")
    for claim in found["claims"]:
        print(f"{'holds ' if claim['holds'] else 'FAILS '} {claim['claim']}: {claim['found']}")
    return 0 if all(claim["holds"] for claim in found["claims"]) else 1


if __name__ == "__main__":
    sys.exit(main())
