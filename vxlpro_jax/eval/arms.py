"""Runs of several arms over the same seeds: mean, spread and paired differences, as a table and as claims.

Source: ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Marks = Mapping[str, float]


@dataclass(frozen=True)
class Claim:
    """`better`'s mean of a mark exceeds `worse`'s, seed by seed on average, by more than `by` standard errors. One seed
    shows nothing."""

    better: str
    worse: str
    mark: str
    by: float


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation over the seeds (None of a single one) and the values themselves."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "deviation": deviation, "values": [float(value) for value in values]}


def summarise(runs: Mapping[str, Sequence[Marks]], marks: Sequence[str], claims: Sequence[Claim]) -> dict[str, Any]:
    """runs: by arm, the marks of each seed, in the same order of seeds for all. Every claim is judged."""
    arms = {arm: {mark: spread([run[mark] for run in found]) for mark in marks} for arm, found in runs.items()}
    return {"arms": arms, "claims": [_judge(claim, runs) for claim in claims]}


def _judge(claim: Claim, runs: Mapping[str, Sequence[Marks]]) -> dict[str, Any]:
    pairs = zip(runs[claim.better], runs[claim.worse], strict=True)
    difference = spread([one[claim.mark] - two[claim.mark] for one, two in pairs])
    count = len(difference["values"])
    error = (difference["deviation"] or 0.0) / count**0.5
    return {
        "said": f"{claim.mark}: {claim.better} above {claim.worse}",
        "difference": difference,
        "standard_error": error if count > 1 else None,
        "holds": count > 1 and difference["mean"] > claim.by * error and difference["mean"] > 0,
    }


def to_markdown(result: Mapping[str, Any], marks: Sequence[str]) -> str:
    """A row per arm, mean and standard deviation over the seeds; below, what is claimed and whether it holds."""
    lines = [f"| arm | {' | '.join(marks)} |", "| --- |" + " --- |" * len(marks)]
    for arm, found in result["arms"].items():
        lines.append(f"| {arm} | {' | '.join(said(found[mark]) for mark in marks)} |")
    lines.append("")
    for claim in result["claims"]:
        holds = "holds" if claim["holds"] else "does NOT hold"
        alone = " (one seed shows nothing)" if claim["standard_error"] is None else ""
        lines.append(f"- {claim['said']}: {said(claim['difference'], '+')}, {holds}{alone}")
    return "\n".join(lines) + "\n"


def said(found: Mapping[str, Any], sign: str = "") -> str:
    """What spread found, in words."""
    deviation = "" if found["deviation"] is None else f" ± {found['deviation']:.3f}"
    return f"{found['mean']:{sign}.3f}{deviation}"
