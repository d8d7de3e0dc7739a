"""Shares of right answers over two things that were varied: a picture, and the same as a table with intervals.

Source: ours; paper, Figure 4 (depth against frames).
"""

from pathlib import Path

import matplotlib
import numpy as np

from launch.whole_file import written_whole
from vxlpro_jax.eval.benchmark import Grid, share_interval

matplotlib.use("Agg")  # before pyplot: no window is wanted
from matplotlib import pyplot  # noqa: E402


def draw(grid: Grid, title: str, path: Path) -> None:
    """A PNG: red is none right, green is all; what was not asked is white."""
    shares = np.array([[right / n if n else np.nan for right, n in row] for row in grid.cells])
    figure, axes = pyplot.subplots(figsize=(1.4 + 1.0 * len(grid.columns), 1.4 + 0.5 * len(grid.rows)))
    axes.imshow(shares, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        if np.isfinite(share):
            axes.text(column, row, f"{share:.3f}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(grid.columns)), grid.columns)
    axes.set_yticks(range(len(grid.rows)), grid.rows)
    axes.set_xlabel(grid.column_name)
    axes.set_ylabel(grid.row_name)
    axes.set_title(title)
    figure.tight_layout()
    with written_whole(path) as part:
        figure.savefig(part, dpi=100, metadata={"Software": None})
    pyplot.close(figure)


def to_markdown(grid: Grid) -> str:
    """A table of the cells, share and 95 % interval; n below it, of the smallest and the largest cell."""
    lines = [f"| {grid.row_name} \\ {grid.column_name} | {' | '.join(grid.columns)} |"]
    lines.append("| --- |" + " --- |" * len(grid.columns))
    for name, row in zip(grid.rows, grid.cells, strict=True):
        lines.append(f"| {name} | {' | '.join(_said(right, n) for right, n in row)} |")
    counts = [n for row in grid.cells for _, n in row]
    return "\n".join([*lines, "", f"Right answers; {min(counts)} to {max(counts)} questions a cell."]) + "\n"


def _said(right: int, n: int) -> str:
    if not n:
        return ""
    low, high = share_interval(right, n)
    return f"{right / n:.3f} ({low:.2f} to {high:.2f})"
