"""What launch/prune.py runs: annotations in, every video scored once, what is kept and the report out.

Source: paper 3.3 (Video Dataset Pruning); docs/pruning.md.
"""

import functools
import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from ml_collections import ConfigDict
from tqdm import tqdm

from launch.frame_encoder import FrameEncoder, Pooling, load_encoder
from launch.prune_output import SubsetResult, draw_histogram, report_text, write_score_table
from launch.whole_file import write_whole
from vxlpro_jax.config import build
from vxlpro_jax.data.decode_pool import read_in_order
from vxlpro_jax.data.mixture import Dataset, Filters, Mixture, load_mixture
from vxlpro_jax.data.pruning import (
    TASKS,
    KeptVideos,
    SubsetRule,
    TaskRules,
    sample_frames,
    score_frames,
    select_videos,
    task_of,
)
from vxlpro_jax.data.records import MalformedRecord, Record, RecordFault, write_records
from vxlpro_jax.data.row_log import RowLog
from vxlpro_jax.data.video_decode import VideoError

SCORES_FILE = "scores.jsonl"


@dataclass(frozen=True)
class ScoringConfig:
    """num_frames: sampled from each video. pooling: see launch/frame_encoder.py."""

    num_frames: int
    pooling: Pooling


@dataclass(frozen=True)
class PruneConfig:
    """What configs/prune.py holds, which says what each key means."""

    mixture: str
    root: str
    seed: int
    model: str
    dtype: str
    scoring: ScoringConfig
    tasks: TaskRules
    subsets: dict[str, SubsetRule]
    workers: int
    max_broken_share: float


class TooManyBroken(ValueError):
    """More videos than the configuration allows cannot be read."""


@dataclass
class Inventory:
    """What a mixture holds. videos: records of each task, by path; others: records without a video."""

    mixture: Mixture
    videos: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    others: int = 0
    faults: list[RecordFault] = field(default_factory=list)


def read_config(config: ConfigDict) -> PruneConfig:
    """The settings, checked before anything is loaded. Raises ValueError with the key and what it accepts."""
    settings = build(config, PruneConfig)
    if not settings.mixture:
        raise ValueError("config.mixture is empty: name an annotation file (JSON list or JSONL) or a YAML of several.")
    if set(settings.subsets) != set(TASKS):
        raise ValueError(f"config.subsets has {', '.join(settings.subsets)}: one block for each of {', '.join(TASKS)}.")
    if settings.scoring.num_frames < 2:
        raise ValueError(f"config.scoring.num_frames={settings.scoring.num_frames}: a pair takes 2 frames at least.")
    if settings.workers < 0:
        raise ValueError(f"config.workers={settings.workers}: 0 (no other process) or more.")
    if not 0 <= settings.max_broken_share <= 1:
        raise ValueError(f"config.max_broken_share={settings.max_broken_share}: a share from 0 to 1.")
    return settings


def prune(settings: PruneConfig, workdir: Path, json_file: Path | None = None) -> dict[str, Any]:
    """Scores what is not scored yet and writes everything that the caption of launch/prune.py names.

    Raises TooManyBroken, and ValueError or OSError for input or a folder that cannot be used.
    """
    started = time.perf_counter()
    inventory = take_stock(load_mixture(settings.mixture, settings.seed, settings.root), settings.tasks)
    workdir.mkdir(parents=True, exist_ok=True)
    encoder = load_encoder(settings.model, settings.dtype, settings.scoring.pooling)
    log = RowLog(workdir / SCORES_FILE, log_header(encoder, settings.scoring), "scores")
    rows = score_videos(inventory, encoder, settings, log)
    scored = time.perf_counter() - started
    kept, results = choose(inventory, rows, settings.subsets)
    summary = write_all(inventory, rows, kept, results, settings, workdir)
    write_whole(workdir / "prune.json", as_json(summary))
    if json_file:
        write_whole(json_file, as_json(summary))
    print(f"{len(rows)} videos in {scored:.0f} s; everything is in {workdir}", file=sys.stderr)
    return summary


def take_stock(mixture: Mixture, tasks: TaskRules) -> Inventory:
    """Every video with the tasks of its records. Raises ValueError where no record has a video."""
    inventory = Inventory(mixture, faults=[fault for dataset in mixture.datasets for fault in dataset.faults])
    for _, record in mixture.records():
        if isinstance(record, RecordFault):
            inventory.faults.append(record)
        elif record.media_kind == "video":
            inventory.videos[video_of(record)][task_of(record, tasks)] += 1
        else:
            inventory.others += 1
    if not inventory.videos:
        first = f"; the first fault: {inventory.faults[0]}" if inventory.faults else ""
        raise ValueError(f"{mixture.source}: no record with a video{first}")
    return inventory


def video_of(record: Record) -> str:
    return os.path.normpath(record.media[0])


def log_header(encoder: FrameEncoder, scoring: ScoringConfig) -> dict[str, object]:
    """What scores depend on: under another header none of them is used."""
    return {
        "tower": encoder.fingerprint,
        "dtype": encoder.dtype,
        "pooling": scoring.pooling,
        "num_frames": scoring.num_frames,
    }


def score_videos(
    inventory: Inventory, encoder: FrameEncoder, settings: PruneConfig, log: RowLog
) -> dict[str, dict[str, Any]]:
    """A row for every video: those of the log whose file has not changed, and new ones, which the log gets.

    Raises TooManyBroken as soon as it is certain.
    """
    sizes = {video: file_size(video) for video in inventory.videos}
    rows = {row["video"]: row for row in log.rows if sizes.get(row["video"], "gone") == row["bytes"]}
    missing = [video for video in inventory.videos if video not in rows]
    read = functools.partial(sample_frames, num_frames=settings.scoring.num_frames, image_size=encoder.image_size)
    num_broken = sum("broken" in row for row in rows.values())
    refuse_broken(num_broken, len(sizes), settings, log.path)
    progress = tqdm(total=len(sizes), initial=len(rows), unit="video", desc="scoring", mininterval=1.0)
    for video, result in read_in_order(missing, read, settings.workers):
        row: dict[str, Any] = {"video": video, "bytes": sizes[video]}
        if isinstance(result, VideoError):
            num_broken += 1
            row["broken"] = result.reason
        else:
            row["similarity"] = score_frames(result.frames, encoder, settings.scoring.num_frames)
            row["num_frames"], row["num_lost"] = len(result.frames), result.num_lost
            row["duration_s"] = round(result.duration_s, 3)
        log.append(row, sync=True)
        rows[video] = row
        progress.update()
        progress.set_postfix(broken=num_broken, refresh=False)
        refuse_broken(num_broken, len(sizes), settings, log.path)
    progress.close()
    return {video: rows[video] for video in sorted(rows)}


def file_size(video: str) -> int | None:
    """Bytes, or None for what is no file (a folder of images, nothing at all)."""
    return os.path.getsize(video) if os.path.isfile(video) else None


def refuse_broken(num_broken: int, num_videos: int, settings: PruneConfig, log_path: Path) -> None:
    if num_broken > settings.max_broken_share * num_videos:
        raise TooManyBroken(
            f"{num_broken} of {num_videos} videos cannot be read, more than max_broken_share="
            f'{settings.max_broken_share}: nothing is written; {log_path} has the reasons ("broken"). Mend the files '
            "or config.root, or raise --config.max_broken_share; scores so far are kept."
        )


def choose(
    inventory: Inventory, rows: Mapping[str, dict[str, Any]], rules: Mapping[str, SubsetRule]
) -> tuple[dict[str, KeptVideos], list[SubsetResult]]:
    """What each subset keeps, and its line in the report."""
    kept, results = {}, []
    for task in TASKS:
        members = {video: tasks[task] for video, tasks in inventory.videos.items() if tasks[task]}
        similarity = {v: rows[v]["similarity"] for v in members if "similarity" in rows[v]}
        kept[task] = select_videos(similarity, rules[task])
        result = SubsetResult(
            task=task,
            rule=rules[task],
            num_videos=len(members),
            num_broken=len(members) - len(similarity),
            num_kept=len(kept[task].videos),
            num_records=sum(members.values()),
            num_records_kept=sum(members[video] for video in kept[task].videos),
            limit=kept[task].limit,
            similarity=tuple(sorted(similarity.values())),
        )
        results.append(result)
    return kept, results


def kept_records(
    mixture: Mixture, numbers: range, kept: Mapping[str, KeptVideos], tasks: TaskRules
) -> Iterator[Mapping[str, Any]]:
    """Those of the numbered records that stay, as they were read: of kept videos, and those without a video."""
    for number in numbers:
        try:
            record = mixture.record(number)
        except MalformedRecord:  # counted and listed already
            continue
        if record.media_kind != "video" or video_of(record) in kept[task_of(record, tasks)].videos:
            yield record.extra


def write_kept(
    mixture: Mixture, kept: Mapping[str, KeptVideos], tasks: TaskRules, folder: Path
) -> list[dict[str, Any]]:
    """A file for each dataset, in its format, and mixture.yaml, which names them with their weights and filters."""
    folder.mkdir(exist_ok=True)
    files, entries, first = [], [], 0
    for dataset, name in zip(mixture.datasets, distinct_names(mixture), strict=True):
        numbers = range(first, first + len(dataset.places))
        count = write_records(folder / name, kept_records(mixture, numbers, kept, tasks), like=dataset.path)
        files.append({"from": dataset.path, "to": f"{folder.name}/{name}", "num_records_kept": count})
        if count:
            entries.append({"name": dataset.name, "json_path": name} | mixture_entry(dataset))
        first = numbers.stop
    write_whole(folder / "mixture.yaml", yaml.safe_dump({"datasets": entries}, sort_keys=False))
    return files


def mixture_entry(dataset: Dataset) -> dict[str, Any]:
    """What a mixture file says of a dataset beside its name. Its strategy has been followed already."""
    plain = asdict(Filters())
    filters = {key: value for key, value in asdict(dataset.filters).items() if value != plain[key]}
    entry = {"media_root": os.path.abspath(dataset.media_root), "weight": dataset.weight}
    return entry | ({"filters": filters} if filters else {})


def write_all(
    inventory: Inventory,
    rows: Mapping[str, dict[str, Any]],
    kept: Mapping[str, KeptVideos],
    results: list[SubsetResult],
    settings: PruneConfig,
    workdir: Path,
) -> dict[str, Any]:
    """Writes all files but prune.json, whose content is returned. Nothing in them tells the time or the workers."""
    files = write_kept(inventory.mixture, kept, settings.tasks, workdir / "kept")
    broken = [{"video": video, "reason": row["broken"]} for video, row in rows.items() if "broken" in row]
    faults = [{"source": fault.source, "line": fault.line, "reason": fault.reason} for fault in inventory.faults]
    lines = [json.dumps(line, ensure_ascii=False) + "\n" for line in [*broken, *faults]]
    write_whole(workdir / "broken.jsonl", "".join(lines))
    write_score_table(workdir / "scores.parquet", inventory.videos, rows, kept)
    draw_histogram(workdir / "similarity.png", results)
    summary = {
        "subsets": {result.task: result.to_json() for result in results},
        "files": files,
        "num_videos": len(rows),
        "num_broken_videos": len(broken),
        "num_faulty_records": len(faults),
        "num_records_without_video": inventory.others,
        "scoring": {"num_frames": settings.scoring.num_frames, "pooling": settings.scoring.pooling},
        "model": settings.model or "embedded",
    }
    write_whole(workdir / "report.md", report_text(results, summary, broken, faults))
    return summary


def distinct_names(mixture: Mixture) -> list[str]:
    """File names for the copies: those of the originals, numbered where two are the same."""
    seen: Counter[str] = Counter()
    names = []
    for path in (Path(dataset.path) for dataset in mixture.datasets):
        seen[path.name] += 1
        names.append(path.name if seen[path.name] == 1 else f"{path.stem}-{seen[path.name]}{path.suffix}")
    return names


def as_json(summary: Mapping[str, Any]) -> str:
    return json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
