"""Bars that a result must clear, and results as Markdown and JSON.

Source: ours.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vxlpro_jax.eval.benchmark import ACCURACY, CONFIDENCE, Row, share_interval
from vxlpro_jax.eval.harness import Result

SHOWN_BROKEN = 10


@dataclass(frozen=True)
class Bars:
    """What a variant must reach.

    at_least: metric -> row -> smallest value. at_chance: kinds whose accuracy must not be told from guessing.
    max_broken: videos that may be broken. reported_only: verdicts are shown but nothing fails.
    """

    at_least: dict[str, dict[str, float]]
    at_chance: tuple[str, ...]
    max_broken: int
    reported_only: bool


@dataclass(frozen=True)
class Verdict:
    """One bar held against a result; `said` is the bar in words, with the figure that it was held against."""

    metric: str
    row: str
    said: str
    is_met: bool


def judge(result: Result, bars: Bars) -> list[Verdict]:
    """A verdict on every bar; a row that does not exist misses its bar, as does one without a known chance."""
    rows = {(row.metric, row.name): row for row in result.rows}
    verdicts = []
    for metric, floors in bars.at_least.items():
        for name, floor in floors.items():
            row = rows.get((metric, name))
            verdicts.append(Verdict(metric, name, f">= {floor:g}", row is not None and row.value >= floor))
    for name in bars.at_chance:
        verdicts.append(_judge_chance(name, rows.get((ACCURACY, name)), len(bars.at_chance)))
    if len(result.broken) > bars.max_broken:
        said = f"{len(result.broken)} videos, at most {bars.max_broken} accepted"
        verdicts.append(Verdict("broken", "videos", said, is_met=False))
    return verdicts


def _judge_chance(name: str, row: Row | None, num_kinds: int) -> Verdict:
    """Whether the interval contains chance.

    A true guesser falls out of a 95 % interval once in twenty times, so out of one of six four times as often: the
    intervals of a variant's kinds are widened (Bonferroni) until all of them together hold at 95 %.
    """
    if row is None or row.chance is None:
        return Verdict(ACCURACY, name, "at chance, which is not known", is_met=False)
    low, high = share_interval(round(row.value * row.n), row.n, 1 - (1 - CONFIDENCE) / num_kinds)
    said = f"{low:.3f} .. {high:.3f} holds {row.chance:.3f}"
    return Verdict(ACCURACY, name, said, low <= row.chance <= high)


def missed(verdicts: Sequence[Verdict], bars: Bars) -> list[Verdict]:
    """The verdicts that make a run fail."""
    return [] if bars.reported_only else [verdict for verdict in verdicts if not verdict.is_met]


def to_markdown(result: Result, verdicts: Sequence[Verdict]) -> str:
    """The result as a Markdown section: knobs, table, broken videos."""
    bars = {(verdict.metric, verdict.row): verdict for verdict in verdicts}
    lines = [f"## {result.name}", ""]
    lines += [f"- {name}: `{_one_line(value)}`" for name, value in result.knobs.items()]
    lines += [
        "",
        "| metric | questions | n | value | 95 % interval | chance | bar | |",
        "| --- | --- " + "| ---: " * 4 + "| --- | --- |",
    ]
    for row in result.rows:
        verdict = bars.pop((row.metric, row.name), None)
        said = (verdict.said, "met" if verdict.is_met else "**missed**") if verdict else ("", "")
        chance = "" if row.chance is None else f"{row.chance:.3f}"
        bounds = f"{row.low:.3f} .. {row.high:.3f}" if math.isfinite(row.low) else ""
        lines.append(
            f"| {row.metric} | {row.name} | {row.n} | {row.value:.3f} | {bounds} | {chance} | {said[0]} | {said[1]} |"
        )
    lines += [f"| {v.metric} | {v.row} | 0 | | | | {v.said} | **missed** |" for v in bars.values()]
    lines += [
        "",
        f"{len(result.predictions)} answers, {result.num_resumed} of them from an earlier run; "
        f"{result.num_empty} are empty.",
        *(line for remark in result.remarks for line in ("", remark)),
    ]
    if result.broken:
        skipped = sum(broken.num_questions for broken in result.broken)
        lines += ["", f"{len(result.broken)} broken videos, {skipped} questions not asked:", ""]
        lines += [f"- {broken.video}: {_one_line(broken.reason)}" for broken in result.broken[:SHOWN_BROKEN]]
        if len(result.broken) > SHOWN_BROKEN:
            lines.append(f"- and {len(result.broken) - SHOWN_BROKEN} more")
    return "\n".join(lines) + "\n"


def to_summary(result: Result, verdicts: Sequence[Verdict], bars: Bars) -> dict[str, Any]:
    """The result without its answers, fit for strict JSON (an interval that is not known is null)."""
    rows = [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(r).items()}
        for r in result.rows
    ]
    return {
        "name": result.name,
        "knobs": result.knobs,
        "rows": rows,
        "bars": [asdict(verdict) for verdict in verdicts],
        "reported_only": bars.reported_only,
        "num_answers": len(result.predictions),
        "num_empty": result.num_empty,
        "remarks": list(result.remarks),
        "grid": result.grid and asdict(result.grid),
        "broken": [asdict(broken) for broken in result.broken],
    }


def _one_line(value: object) -> str:
    return str(value).replace("`", "'").replace("\n", "\\n")
