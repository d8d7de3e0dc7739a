"""What a pruning run leaves for its reader: the table of scores (Parquet), the report (Markdown) and its picture.

Source: ours (docs/pruning.md). The same scores give the same bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet

from launch.whole_file import written_whole
from vxlpro_jax.data.pruning import TASKS, KeptVideos, SubsetRule

matplotlib.use("Agg")  # before pyplot: no window is wanted
from matplotlib import pyplot  # noqa: E402

NUM_BINS, SHOWN_LINES = 40, 20
SCORE_TABLE = pa.schema(
    [
        ("video", pa.string()),
        ("task", pa.string()),
        ("num_records", pa.int32()),
        ("similarity", pa.float64()),
        ("kept", pa.bool_()),
        ("num_frames", pa.int32()),
        ("num_lost", pa.int32()),
        ("duration_s", pa.float64()),
        ("broken", pa.string()),
    ]
)


@dataclass(frozen=True)
class SubsetResult:
    """What became of one task's videos. limit: similarity of the most redundant one kept. similarity: of all that
    could be read, ascending."""

    task: str
    rule: SubsetRule
    num_videos: int
    num_broken: int
    num_kept: int
    num_records: int
    num_records_kept: int
    limit: float | None
    similarity: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """All but the single scores, which the table holds, with their quartiles."""
        values = {**asdict(self), "quartiles": self.quartiles()}
        del values["similarity"], values["task"]
        return values

    def quartiles(self) -> list[float] | None:
        if not self.similarity:
            return None
        return [round(float(value), 4) for value in np.quantile(self.similarity, (0.25, 0.5, 0.75))]


def write_score_table(
    path: Path,
    videos: Mapping[str, Mapping[str, int]],
    rows: Mapping[str, Mapping[str, Any]],
    kept: Mapping[str, KeptVideos],
) -> None:
    """One line for each video and task, by path; what is not known of a broken video is null."""
    lines = []
    for video, row in rows.items():
        for task in TASKS:
            if videos[video].get(task):
                known = {name: row.get(name) for name in SCORE_TABLE.names if name in row}
                place = {"video": video, "task": task, "num_records": videos[video][task]}
                lines.append({**known, **place, "kept": video in kept[task].videos})
    with written_whole(path) as part:
        pa.parquet.write_table(pa.Table.from_pylist(lines, SCORE_TABLE), part)


def report_text(
    results: Sequence[SubsetResult],
    summary: Mapping[str, Any],
    broken: Sequence[Mapping[str, Any]],
    faults: Sequence[Mapping[str, Any]],
) -> str:
    """The report in Markdown."""
    scoring = summary["scoring"]
    lines = [
        "# Pruned data set",
        "",
        f"Similarity: mean cosine of all pairs of {scoring['num_frames']} frames ({scoring['pooling']}), 1 where "
        f"nothing changes. Tower: {summary['model']}.",
        "",
        "| task | rule | videos | broken | kept | records | kept | limit | quartiles of similarity |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_line(result) for result in results),
        "",
        "![similarity of the videos of each task](similarity.png)",
        "",
        f"{summary['num_videos']} videos, each scored once; {summary['num_broken_videos']} cannot be read, and their "
        f"records are left out. {summary['num_records_without_video']} records without a video are kept as they are; "
        f"{summary['num_faulty_records']} faulty records are left out.",
        "",
        "| annotations | kept as | records kept |",
        "| --- | --- | --- |",
        *(f"| {file['from']} | {file['to']} | {file['num_records_kept']} |" for file in summary["files"]),
    ]
    for title, items in (("Broken videos", broken), ("Faulty records", faults)):
        if items:
            lines += ["", f"## {title}", ""]
            lines += [f"- {_place(item)}: {item['reason']}" for item in items[:SHOWN_LINES]]
            if len(items) > SHOWN_LINES:
                lines.append(f"- and {len(items) - SHOWN_LINES} more, all in broken.jsonl")
    return "\n".join(lines) + "\n"


def _line(result: SubsetResult) -> str:
    rule = result.rule.keep if result.rule.keep == "all" else f"{result.rule.keep} {result.rule.value:g}"
    limit = "" if result.limit is None else f"{result.limit:.4f}"
    quartiles = " ".join(f"{value:.3f}" for value in result.quartiles() or ())
    cells = (
        *(result.task, rule, result.num_videos, result.num_broken, result.num_kept),
        *(result.num_records, result.num_records_kept, limit, quartiles),
    )
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _place(item: Mapping[str, Any]) -> str:
    return str(item["video"]) if "video" in item else f"{item['source']}:{item['line']}"


def draw_histogram(path: Path, results: Sequence[SubsetResult]) -> None:
    """How many videos of each task have which similarity, and up to where they are kept."""
    shown = [result for result in results if result.similarity]
    figure, axes = pyplot.subplots(len(shown) or 1, 1, figsize=(7, 2.2 * (len(shown) or 1)), squeeze=False)
    lowest = min((result.similarity[0] for result in shown), default=0.0)
    bins = np.linspace(min(lowest, 0.0), 1.0, NUM_BINS + 1)
    for axis, result in zip(axes[:, 0], shown, strict=False):
        axis.hist(result.similarity, bins=bins, color="#4878a8")
        if result.limit is not None:
            axis.axvline(result.limit, color="#c03030", label=f"kept up to {result.limit:.3f}")
            axis.legend(loc="upper left", frameon=False)
        axis.set_title(f"{result.task}: {result.num_kept} of {result.num_videos} videos kept", fontsize=10)
        axis.set_ylabel("videos")
    axes[-1, 0].set_xlabel("mean cosine similarity of a video's frames (1: nothing changes)")
    figure.tight_layout()
    with written_whole(path) as part:
        figure.savefig(part, format="png", dpi=100)
    pyplot.close(figure)
