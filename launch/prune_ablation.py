"""Table 7 at tiny size: `python -m launch.prune_ablation --config=configs/ablations/pruning.py --workdir=DIR`.

The embedded model is fine-tuned for one epoch on N random videos of a pool, on 2N, and on the N that pruning keeps,
over several seeds. More: [--config.KEY=VALUE] [--json=FILE]. DIR gets the videos, their scores and features, arms.jsonl
(a line per arm: a killed run goes on after the last), result.json and result.md. Exit code: 0, 1 when the pruned videos
are not better, on average and in every world, than as many random ones, 2 for bad arguments.

Source: paper 4.8, Table 7; docs/pruning.md.
"""

import dataclasses
import functools
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow.parquet as parquet
from absl import logging
from ml_collections import ConfigDict
from tqdm import tqdm

from configs import prune as prune_config
from launch.command_line import run_study
from launch.frame_encoder import tower_fingerprint
from launch.prune_run import prune, read_config
from launch.record_feed import RecordFeed, cached_group_features
from launch.whole_file import write_whole
from vxlpro_jax.config import build
from vxlpro_jax.convert import load_params
from vxlpro_jax.data.pruning import SubsetRule, select_videos
from vxlpro_jax.data.records import Record, read_records, write_records
from vxlpro_jax.data.row_log import RowLog
from vxlpro_jax.data.synthetic_pool import write_pool
from vxlpro_jax.data.tokenizer import load_tokenizer
from vxlpro_jax.eval.arms import said, spread
from vxlpro_jax.loading import EMBEDDED
from vxlpro_jax.models.presets import VideoXLProConfig
from vxlpro_jax.models.video_xl_pro import VideoXLProModel
from vxlpro_jax.train.answer_feed import mark_batches
from vxlpro_jax.train.optimizers import OptimizerConfig, make_optimizer
from vxlpro_jax.train.stages import StageConfig, answer_check, stage_loss
from vxlpro_jax.train.state import Params, new_state
from vxlpro_jax.train.step import TrainStep, make_train_step

COMMAND = "launch.prune_ablation"
OPTIONS = {"workdir": "folder of the run", "json": "also write the result to this file"}
BEFORE, RANDOM, RANDOM_TWICE, PRUNED = "before fine-tuning", "random N", "random 2N", "pruned N"
ARMS = (RANDOM, RANDOM_TWICE, PRUNED)
EVAL_BATCH, QUESTIONS_PER_VIDEO = 30, 6


@dataclass(frozen=True)
class PruneAblationConfig:
    """What configs/ablations/pruning.py holds. bank, heldout: videos of each world; stage.num_steps is not read: an
    epoch has as many as the arm's questions make."""

    seed: int
    seeds: tuple[int, ...]
    num_videos: int
    bank: dict[str, int]
    pool_videos: int
    heldout: dict[str, int]
    batch_size: int
    stage: StageConfig
    optimizer: OptimizerConfig


@dataclass(frozen=True)
class Bench:
    """What all arms share. similarity: of every video of the bank. heldout: marking batches by world. mark, step:
    compiled once; step makes the update of an epoch of so many steps."""

    params: Params
    feed: RecordFeed
    similarity: Mapping[str, float]
    heldout: Mapping[str, Sequence[Any]]
    mark: Callable[[Params, Any], tuple[Any, Any]]
    step: Callable[[int], TrainStep]


def check(config: ConfigDict) -> PruneAblationConfig:
    """The settings. Raises ValueError with the key and what it accepts."""
    settings = build(config, PruneAblationConfig)
    size = sum(settings.bank.values())
    if not 2 * settings.num_videos <= settings.pool_videos <= size:
        raise ValueError(
            f"config.pool_videos={settings.pool_videos}: from 2 x num_videos={2 * settings.num_videos} to the {size} "
            "videos of config.bank."
        )
    for world, count in settings.heldout.items():
        if count < 1 or count * QUESTIONS_PER_VIDEO % EVAL_BATCH:
            whole = EVAL_BATCH // QUESTIONS_PER_VIDEO
            raise ValueError(f"config.heldout.{world}={count}: a multiple of {whole} makes whole batches.")
    if not settings.seeds:
        raise ValueError("config.seeds is empty: one seed at least.")
    return settings


def choose_videos(arm: str, seed: int, settings: PruneAblationConfig, similarity: Mapping[str, float]) -> list[str]:
    """The arm's videos, sorted. Random ones are nested: those of N are among those of 2N, both from the seed's pool."""
    rng = np.random.default_rng([settings.seed, seed])
    pool = [str(name) for name in rng.permutation(sorted(similarity))[: settings.pool_videos]]
    if arm == PRUNED:
        rule = SubsetRule("share", settings.num_videos / settings.pool_videos)
        return sorted(select_videos({name: similarity[name] for name in pool}, rule).videos)
    return sorted(pool[: settings.num_videos * (2 if arm == RANDOM_TWICE else 1)])


def prepare(
    settings: PruneAblationConfig, workdir: Path, config: VideoXLProConfig, params: Params, fingerprint: str
) -> Bench:
    """Videos, scores and features, each made once. fingerprint: of the model."""
    model, params = VideoXLProModel(config), jax.device_put(params)
    feeds, annotations = {}, {}
    for name, seed, worlds in (
        ("bank", settings.seed, settings.bank),
        ("heldout", settings.seed + 1, settings.heldout),
    ):
        annotations[name] = write_annotations(workdir / name, seed, worlds)
        found = read_records(annotations[name], workdir / name)
        records = [record for record in found if isinstance(record, Record)]
        digest = hashlib.sha256(repr((fingerprint, seed, sorted(worlds.items()))).encode()).hexdigest()[:12]
        features = cached_group_features(model, params, records, workdir / f"{name}_features_{digest}.npy")
        feeds[name] = RecordFeed(records, features, load_tokenizer(EMBEDDED), config)
    heldout = {world: feeds["heldout"].marking_batches(world, EVAL_BATCH) for world in settings.heldout}
    similarity = score(annotations["bank"], workdir)
    mark = jax.jit(answer_check(settings.stage, model))
    loss = stage_loss(settings.stage, model)

    @functools.cache
    def step(num_steps: int) -> TrainStep:
        return make_train_step(loss, settings.stage.trainable, make_optimizer(settings.optimizer, num_steps))

    return Bench(params, feeds["bank"], similarity, heldout, mark, step)


def write_annotations(folder: Path, seed: int, worlds: dict[str, int]) -> Path:
    """The videos and an annotation file with their questions, in LLaVA's format."""
    videos = tqdm(write_pool(folder, seed, worlds), total=sum(worlds.values()), unit="video", desc=folder.name)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "train.jsonl"
    write_records(path, (raw for records in videos for raw in records))
    return path


def score(annotations: Path, workdir: Path) -> dict[str, float]:
    """Similarity of every video, by launch.prune's own code."""
    config = prune_config.get_config()
    config.mixture, config.root = str(annotations), str(annotations.parent)
    prune(read_config(config), workdir / "prune")
    lines = parquet.read_table(workdir / "prune" / "scores.parquet").to_pylist()
    return {Path(line["video"]).name: line["similarity"] for line in lines}


def run_arm(arm: str, seed: int, settings: PruneAblationConfig, bench: Bench) -> dict[str, Any]:
    """Fine-tune on the arm's videos for an epoch and mark the result."""
    started = time.perf_counter()
    videos = [] if arm == BEFORE else choose_videos(arm, seed, settings, bench.similarity)
    batches = bench.feed.epoch(videos, settings.batch_size, seed) if videos else []
    params = jax.tree.map(lambda leaf: leaf.copy(), bench.params)
    if batches:
        optimizer = make_optimizer(settings.optimizer, len(batches))
        step = bench.step(len(batches))
        state = new_state(params, settings.stage.trainable, optimizer, seed=seed)
        for places in tqdm(batches, unit="step", desc=f"{arm}, seed {seed}", mininterval=5.0):
            state, _ = step(state, [bench.feed.batch(places)])
        params = state.params
    marks = {
        world: mark_batches(lambda batch: bench.mark(params, batch), list(held))
        for world, held in bench.heldout.items()
    }
    worlds = [name.split("_")[0] for name in videos]
    return {
        "arm": arm,
        "seed": seed,
        "num_videos": len(videos),
        "num_busy": worlds.count("busy"),
        "num_steps": len(batches),
        "seconds": round(time.perf_counter() - started, 1),
        "marks": {world: {name: round(value, 4) for name, value in found.items()} for world, found in marks.items()},
    }


def run(settings: PruneAblationConfig, workdir: Path) -> dict[str, Any]:
    """All arms that are not done yet; returns and writes the result."""
    workdir.mkdir(parents=True, exist_ok=True)
    config, params = load_params(EMBEDDED, dtype="float32")
    fingerprint = tower_fingerprint(config, params)
    # Arms of another pool, training or model are never put beside each other; further seeds may join.
    header = {**dataclasses.asdict(dataclasses.replace(settings, seeds=())), "model": fingerprint}
    log = RowLog(workdir / "arms.jsonl", header, "arms")
    rows = {(row["arm"], row["seed"]): row for row in log.rows}
    wanted = [(BEFORE, 0), *((arm, seed) for seed in settings.seeds for arm in ARMS)]
    is_done = all(key in rows for key in wanted)
    bench = None if is_done else prepare(settings, workdir, config, params, fingerprint)
    for arm, seed in wanted:
        if (arm, seed) not in rows and bench is not None:
            rows[arm, seed] = run_arm(arm, seed, settings, bench)
            log.append(rows[arm, seed], sync=True)
    result = summarise([rows[key] for key in wanted], settings)
    write_whole(workdir / "result.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    write_whole(workdir / "result.md", to_markdown(result))
    return result


def summarise(rows: Sequence[Mapping[str, Any]], settings: PruneAblationConfig) -> dict[str, Any]:
    """Mean and spread of each arm over the seeds, and the pruned arm's differences, seed by seed."""
    arms: dict[str, Any] = {}
    of: dict[str, list[Mapping[str, Any]]] = {
        arm: [row for row in rows if row["arm"] == arm] for arm in (BEFORE, *ARMS)
    }
    for arm, found in of.items():
        worlds = {world: [row["marks"][world]["all"] for row in found] for world in settings.heldout}
        arms[arm] = {
            "num_videos": found[0]["num_videos"],
            "num_busy": [row["num_busy"] for row in found],
            "num_steps": found[0]["num_steps"],
            "right": {world: spread(values) for world, values in worlds.items()},
        }
    differences = {}
    for other in (RANDOM, RANDOM_TWICE):
        for world in settings.heldout:
            pairs = zip(of[PRUNED], of[other], strict=True)
            values = [one["marks"][world]["all"] - two["marks"][world]["all"] for one, two in pairs]
            differences.setdefault(other, {})[world] = spread(values)
    better = all(found["mean"] > 0 for found in differences[RANDOM].values())
    return {"arms": arms, "pruned_minus": differences, "passed": better, "rows": list(rows)}


def to_markdown(result: Mapping[str, Any]) -> str:
    """The result as a table like the paper's."""
    worlds = list(result["arms"][RANDOM]["right"])
    lines = [
        f"| fine-tuned on | videos | of them busy | steps | {' | '.join(f'right, {world}' for world in worlds)} |",
        "| --- |" + " --- |" * (len(worlds) + 3),
    ]
    for arm, found in result["arms"].items():
        cells = [said(found["right"][world]) for world in worlds]
        busy = f"{np.mean(found['num_busy']):.0f}"
        lines.append(f"| {arm} | {found['num_videos']} | {busy} | {found['num_steps']} | {' | '.join(cells)} |")
    lines += ["", f"| difference, seed by seed | {' | '.join(worlds)} |", "| --- |" + " --- |" * len(worlds)]
    for other, found in result["pruned_minus"].items():
        lines.append(f"| {PRUNED} - {other} | {' | '.join(said(found[world], '+') for world in worlds)} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    logging.set_verbosity(logging.WARNING)
    _, result = run_study(COMMAND, argv, OPTIONS, lambda config, workdir: run(check(config), workdir))
    print(to_markdown(result))
    if not result["passed"]:
        print(f"{PRUNED} is not better than {RANDOM} in every world", file=sys.stderr)
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
