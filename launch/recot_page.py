"""The pages of launch/recot_report.py: what is claimed, the tables, the pictures.

Source: ours (docs/recot.md).
"""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from vxlpro_jax.data.synthetic_foreground import CAST, ForegroundClips

MAX_COSINE = 0.999  # above it the code of shuffled frames is that of the frames
SHARE_RANGE = (0.475, 0.525)  # of decoder over encoder: one half within 5 %
CLIPS_SHOWN, DPI = 3, 70


def claims_of(arms: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What must hold of every run, and whether it does. That semantic masking beats random masking is none of them: it
    is measured, and told either way."""
    runs = [(f"{name} {run['seed']}", run) for name, of_arm in arms.items() for run in of_arm]
    semantic = [(name, run) for name, run in runs if run["query_gradients"]]

    def claim(text: str, values: list[tuple[str, float]], holds: bool) -> dict[str, Any]:
        return {
            "claim": text,
            "holds": bool(holds),
            "found": ", ".join(f"{name} {value:.4g}" for name, value in values),
        }

    best = [(name, run["error"]["whole"] / min(run["baselines"].values())) for name, run in runs]
    reverse = [(name, run["order"]["reversed"]["low"]) for name, run in runs]
    cosine = [(name, run["order"]["cosine_shuffled"]) for name, run in runs]
    share = [(name, run["decoder_share"]) for name, run in runs]
    found = [
        claim("error of whole clips over that of the best baseline is below 1", best, all(v < 1 for _, v in best)),
        claim(
            "direction on reversed clips, labels flipped: the interval's low end is above chance (.25)",
            reverse,
            all(run["order"]["reversed"]["low"] > run["order"]["chance"] for _, run in runs),
        ),
        claim("cosine with the shuffled clip's code is at most .999", cosine, all(v <= MAX_COSINE for _, v in cosine)),
        claim(
            "decoder over encoder parameters is .5 within 5 %",
            share,
            all(SHARE_RANGE[0] <= v <= SHARE_RANGE[1] for _, v in share),
        ),
    ]
    if semantic:
        gaps = [(n, r["foreground"]["masked"] - r["foreground"]["masked_at_random"]) for n, r in semantic]
        norms = [(f"{n} {q}", v) for n, run in semantic for q, v in run["query_gradients"].items()]
        found += [
            claim(
                "semantic masking hides less foreground than random: the difference is negative",
                gaps,
                all(v < 0 for _, v in gaps),
            ),
            claim("both Queries have a gradient", norms, all(v > 0 for _, v in norms) and len(norms) == 2 * len(gaps)),
        ]
    return found


def page_of(found: dict[str, Any]) -> str:
    """The report as Markdown."""
    first = next(iter(found["arms"].values()))[0]
    lines = [
        f"{found['steps']} steps of {found['batch_size']} clips of {found['clip_frames']} frames; "
        f"{first['train_clips']} clips to train on, {first['heldout_clips']} held out. Mean over seeds, "
        "lowest to highest in brackets.",
        "",
        "| claim | holds | found, by arm and seed |",
        "| --- | --- | --- |",
        *(f"| {c['claim']} | {'yes' if c['holds'] else '**no**'} | {c['found']} |" for c in found["claims"]),
        "",
        "Errors are shares of the features' variance; hidden: all tokens, under one random mask, the same for all.",
        "",
    ]
    rows: dict[str, list[str]] = {"seeds": [str(len(runs)) for runs in found["arms"].values()]}
    for label, path in ROWS:
        rows[label] = [_spread([_at(run, path) for run in runs]) for runs in found["arms"].values()]
    lines += _table("", list(found["arms"]), rows)
    probes = {name: [_figure(_at(probe, "accuracy"))] for name, probe in found["tower_probes"].items()}
    lines += ["", *_table("probe on the tower's own tokens, uncompressed", ["accuracy"], probes)]
    return "\n".join(lines) + "\n"


ROWS = (
    ("error, whole clips", "error/whole"),
    ("the same before training", "error_before/whole"),
    ("the same, PCA", "baselines/pca"),
    ("the same, mean of the frames repeated", "baselines/mean_of_frames"),
    ("the same, first frame repeated", "baselines/first_frame"),
    ("error, hidden tokens", "error/hidden"),
    ("the same before training ", "error_before/hidden"),
    ("probe: kind", "probes/kind/accuracy"),
    ("probe: glyph", "probes/glyph/accuracy"),
    ("probe: colour", "probes/colour/accuracy"),
    ("probe: direction", "probes/direction/accuracy"),
    ("direction, clips reversed", "order/reversed/accuracy"),
    ("cosine with the shuffled clip", "order/cosine_shuffled"),
    ("the same, movers alone", "order/cosine_shuffled_movers"),
    ("cosine with the reversed clip", "order/cosine_reversed"),
    ("foreground among masked tokens", "foreground/masked"),
    ("foreground under a random mask", "foreground/masked_at_random"),
    ("foreground among all tokens", "foreground/all_tokens"),
    ("masking rate of foreground over all tokens': cards in all frames", "foreground/ratio_still_cards"),
    ("the same: cards in some frames", "foreground/ratio_brief_cards"),
    ("the same: movers", "foreground/ratio_movers"),
    ("gradient norm, Temp Query", "query_gradients/temp_query"),
    ("gradient norm, Spatio Query", "query_gradients/spatio_query"),
    ("decoder over encoder parameters", "decoder_share"),
)


def _at(run: dict[str, Any], path: str) -> float | None:
    value: Any = run
    for part in path.split("/"):
        value = value.get(part) if value else None
    return value


def _spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{_figure(float(np.mean(known)))} ({_figure(min(known))} to {_figure(max(known))})"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _table(corner: str, columns: list[str], rows: dict[str, list[str]]) -> list[str]:
    head = [f"| {corner} | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    return head + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]


def draw_masks(known: ForegroundClips, masks: dict[str, np.ndarray], path: Path) -> None:
    """One clip of each kind: its frames, the scores of their tokens, what is masked (dark)."""
    chosen = [int(np.flatnonzero(known.kind == kind)[0]) for kind in range(len(CAST)) if (known.kind == kind).any()]
    num_frames, grid = known.frames.shape[1], known.foreground.shape[-1]
    figure, axes = plt.subplots(
        3 * len(chosen), num_frames, figsize=(1.3 * num_frames, 3.9 * len(chosen)), squeeze=False
    )
    low, high = np.percentile(masks["scores"], (2, 98))
    for row, clip in enumerate(chosen):
        for frame in range(num_frames):
            scores = masks["scores"][clip, frame].reshape(grid, grid)
            masked = masks["masked"][clip, frame].reshape(grid, grid)
            pixels = known.frames[clip, frame].astype(float) / 255
            side = pixels.shape[0] // grid
            veil = np.kron(masked, np.ones((side, side)))[..., None]
            hidden = pixels[: side * grid, : side * grid] * (1 - 0.85 * veil)
            for part, image in enumerate((pixels, scores, hidden)):
                limits = {"vmin": low, "vmax": high, "cmap": "viridis"} if part == 1 else {}
                place = axes[3 * row + part, frame]
                place.imshow(image, **limits)
                place.set_xticks([])
                place.set_yticks([])
        for part, name in enumerate(("frame", "score", "masked")):
            axes[3 * row + part, 0].set_ylabel(f"{CAST[known.kind[clip]]}\n{name}" if part == 0 else name, fontsize=8)
    _save(figure, path)


def draw_runs(found: dict[str, Any], folders: dict[str, Path], path: Path) -> None:
    """Loss by step of each arm's first seed, and errors of all seeds beside the baselines."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    for name, folder in folders.items():
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        steps = [(line["step"], line["loss"]) for line in lines if "loss" in line]
        left.plot(*zip(*steps, strict=True), label=name)
    left.set(xlabel="step", ylabel="loss (each under its own mask)")
    left.legend()
    for place, (name, runs) in enumerate(found["arms"].items()):
        right.plot([place] * len(runs), [run["error"]["whole"] for run in runs], "o", label=name)
    first = next(iter(found["arms"].values()))[0]
    for name, value in first["baselines"].items():
        right.axhline(value, linestyle=":", color="grey")
        right.annotate(name.replace("_", " "), (len(found["arms"]) - 0.9, value), fontsize=7)
    right.set(yscale="log", ylabel="error, whole held-out clips", xlim=(-0.5, len(found["arms"]) + 0.2))
    right.set_xticks(range(len(found["arms"])), list(found["arms"]))
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
