"""What a run will be fed with: `python -m launch.data_report --config=FILE --workdir=DIR [--json=FILE]`.

More: [--facts=FILE] [--samples=N] [--config.KEY=VALUE]. --config: a mixture, or a configuration with a `data` block.
DIR gets data_report.json, .md and .png: durations of the videos and frames that each is looked at with, beside a fixed
rate (the paper's Figure 3), share of target tokens, lengths, and how well the buckets are filled. Nothing is decoded.
Exit code: 0, 1 when more samples than data.max_broken_share are too long, 2 for bad arguments.

Source: paper 3.4 (Figure 3); docs/data.md.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from launch.command_line import fail
from launch.data_settings import DataSettings, parse, shape_of, tokenizer_of
from launch.whole_file import write_whole, written_whole
from vxlpro_jax.config import model_config
from vxlpro_jax.data.batch_plan import BatchPlan, one_of_each_video
from vxlpro_jax.data.conversation import stamp_ids
from vxlpro_jax.data.frame_sampling import count_frames
from vxlpro_jax.data.mixture import Mixture, load_mixture
from vxlpro_jax.data.pipeline import FACTS_FILE, make_plan
from vxlpro_jax.data.samples import SampleMaker, longest_stamp
from vxlpro_jax.data.video_facts import FactStore
from vxlpro_jax.types import IGNORE_LABEL, VIDEO_MARK

COMMAND = "launch.data_report"
OPTIONS = {
    "workdir": "folder of the report",
    "facts": "file of media facts (default: the configuration's, else in the workdir)",
    "json": "also write data_report.json to this file",
    "samples": "samples of one epoch to reckon with (default 2000; at random)",
}
DURATION_EDGES_S = (0, 15, 30, 60, 120, 180, 300, 600, 1800, 3600, float("inf"))


def main(argv: list[str] | None = None) -> int:
    settings, options = parse(sys.argv[1:] if argv is None else argv, COMMAND, OPTIONS)
    if not options["workdir"]:
        fail(COMMAND, "--workdir=DIR is needed: the folder of the report")
    if not (options["samples"] or "2000").isdecimal():
        fail(COMMAND, f"--samples={options['samples']}: a number of samples")
    workdir = Path(options["workdir"])
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        facts = options["facts"] or settings.data.facts or str(workdir / FACTS_FILE)
        result, frames = report(settings, Path(facts), int(options["samples"] or "2000"))
        text = json.dumps(result, indent=1, allow_nan=False) + "\n"
        for target in filter(None, (workdir / "data_report.json", options["json"])):
            write_whole(Path(target), text)
        write_whole(workdir / "data_report.md", markdown(result))
        draw(result, frames, workdir / "data_report.png")
    except (ValueError, OSError) as error:
        fail(COMMAND, str(error))
    print(markdown(result))
    if not result["fits"]:
        print(f"{COMMAND}: {result['text']['too_long']} samples are too long for their bucket", file=sys.stderr)
    return 0 if result["fits"] else 1


def report(settings: DataSettings, facts: Path, num_samples: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(the report, frames per video by way of sampling). Raises ValueError for a mixture that cannot be used."""
    data = settings.data
    mixture = load_mixture(data.mixture, settings.seed, data.root)
    shape = shape_of(model_config(settings))
    plan, skipped = make_plan(data, shape, mixture, FactStore(facts), settings.seed)
    steps = np.arange(plan.num_steps(1))
    sizes = plan.sizes
    videos = one_of_each_video(mixture, sizes)
    parts = (sizes.num_frames[videos], sizes.span_s[videos], sizes.duration_s[videos])
    draws = np.random.default_rng(settings.seed).integers(0, 2**31, len(videos))
    fixed = np.minimum(np.floor(parts[1] * data.sampling.long_fps + 1e-6) + 1, parts[0])
    frames = {
        "this run": count_frames(data.sampling, *parts, draws),
        f"fixed {data.sampling.long_fps:g} frames/s": np.minimum(fixed, data.sampling.max_frames).astype(np.int64),
    }
    counts = np.histogram(parts[2], np.array(DURATION_EDGES_S))[0]
    result = {
        "mixture": mixture.source,
        "preset": settings.preset,
        "seed": settings.seed,
        "tokenizer": settings.tokenizer or "the embedded model's",
        "records": len(mixture),
        "usable": int(sizes.is_usable.sum()),
        "left_out": {
            "by_filters": sum(item.kind == "filtered" for item in skipped),
            "beyond": sum(item.kind == "beyond" for item in skipped),
            "as_broken": sum(item.kind == "broken" for item in skipped),
        },
        "steps_per_epoch": len(steps),
        "videos": {
            "number": len(videos),
            "records": int((sizes.is_usable & sizes.is_video).sum()),
            "hours": float(parts[2].sum() / 3600),
            "duration_s": _spread(parts[2]),
            "histogram_edges_s": [edge if np.isfinite(edge) else None for edge in DURATION_EDGES_S],
            "histogram": counts.tolist(),
            "frames": {name: _spread(values) for name, values in frames.items()},
        },
        **_lengths(settings, mixture, plan, num_samples),
    }
    too_long = result["text"]["too_long"] if result["text"] else 0
    result["fits"] = too_long <= data.max_broken_share * max(1, result["samples"])
    return result, {"duration_s": parts[2], **frames}


def _lengths(settings: DataSettings, mixture: Mixture, plan: BatchPlan, num_samples: int) -> dict[str, Any]:
    """Tokens of text and targets, rows, and how full the buckets are, over random batches of the first epoch."""
    data, shape = settings.data, shape_of(model_config(settings))
    tokenize = tokenizer_of(settings).encode if data.prompt != "none" else None
    stamp_len = longest_stamp(shape.stamps, tokenize, float(plan.sizes.end_s.max())) if tokenize else 0
    maker = SampleMaker(shape, data.sampling, data.prompt, data.keep.high, tokenize, stamp_len)
    columns: dict[str, list[int]] = defaultdict(list)
    buckets: dict[str, list[int]] = defaultdict(list)
    too_long = dropped = 0
    for step in np.random.default_rng(settings.seed).permutation(plan.num_steps(1)).tolist():
        if sum(map(len, buckets.values())) >= num_samples:
            break
        batch = plan[step]
        bucket = data.buckets[batch.bucket]
        for record_number, draw in zip(batch.records.tolist(), batch.draws.tolist(), strict=True):
            record = mixture.record(record_number)
            groups = int(min(plan.num_groups(np.array([record_number]), np.array([draw]))[0], bucket.num_groups))
            buckets[batch.bucket].append(groups)
            if tokenize is None:
                continue
            times = np.linspace(0, plan.sizes.end_s[record_number], groups)
            stamps = [stamp_ids(part, shape.stamps, tokenize) for part in np.array_split(times, len(record.media) or 1)]
            try:
                prompt, lost = maker.ask(record, draw, stamps if record.media else [], bucket.text_len)
            except ValueError:
                too_long += 1
                continue
            dropped += lost
            columns["text"].append(int((prompt.ids != VIDEO_MARK).sum()))
            columns["target"].append(int((prompt.labels != IGNORE_LABEL).sum()))
            visual = groups * shape.tokens_per_group * (data.keep.low + data.keep.high) / 2
            rows = columns["text"][-1] + sum(len(s) for part in stamps for s in part) + int(visual)
            columns["rows"].append(min(rows, shape.max_context_len))
    filled = {
        name: {
            "samples": len(groups),
            "share": len(groups) / max(1, sum(map(len, buckets.values()))),
            "num_groups": data.buckets[name].num_groups,
            "mean_groups": float(np.mean(groups)),
            "padding_share": 1 - float(np.mean(groups)) / data.buckets[name].num_groups,
        }
        for name, groups in sorted(buckets.items(), key=lambda item: data.buckets[item[0]].num_groups)
    }
    text = None
    if tokenize is not None and columns:
        text = {
            "text_tokens": _spread(np.array(columns["text"])),
            "target_tokens": _spread(np.array(columns["target"])),
            "rows": _spread(np.array(columns["rows"])),
            "target_share_of_rows": sum(columns["target"]) / sum(columns["rows"]),
            "target_share_of_text": sum(columns["target"]) / sum(columns["text"]),
            "rounds_dropped": dropped,
            "too_long": too_long,
        }
    elif tokenize is not None:
        text = {"rounds_dropped": 0, "too_long": too_long}
    return {"samples": sum(map(len, buckets.values())), "buckets": filled, "text": text}


def _spread(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    names = {"min": 0, "median": 50, "p90": 90, "p99": 99, "max": 100}
    return {"mean": float(values.mean()), **{name: float(np.percentile(values, q)) for name, q in names.items()}}


def markdown(result: dict[str, Any]) -> str:
    """The report as a page."""
    videos, text = result["videos"], result["text"]
    lines = [
        f"# {result['mixture']}",
        "",
        f"{result['records']} records, {result['usable']} usable ({result['left_out']['by_filters']} left out by "
        f"filters, {result['left_out']['beyond']} that this run does not take, {result['left_out']['as_broken']} "
        f"broken), {videos['records']} of them on {videos['number']} videos ({videos['hours']:.2f} hours, each file "
        f"counted once); {result['steps_per_epoch']} batches an epoch. Lengths over {result['samples']} samples of the "
        f"first epoch, sizes of {result['preset']}, tokenizer: {result['tokenizer']}.",
        "",
        "| | mean | min | median | 90 % | 99 % | max |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    rows = {"duration of a video, s": videos["duration_s"]}
    rows |= {f"frames of a video, {name}": spread for name, spread in videos["frames"].items()}
    if text and "rows" in text:
        rows |= {"tokens of text": text["text_tokens"], "target tokens": text["target_tokens"]}
        rows["rows for the LLM"] = text["rows"]
    for name, spread in rows.items():
        if spread:
            lines.append(f"| {name} | " + " | ".join(f"{value:.1f}" for value in spread.values()) + " |")
    if text and "rows" in text:
        lines += [
            "",
            f"Target tokens are {100 * text['target_share_of_rows']:.2f} % of the rows and "
            f"{100 * text['target_share_of_text']:.1f} % of the text. {text['rounds_dropped']} rounds of conversations "
            f"find no room and are left out whole; {text['too_long']} samples are too long even with one.",
        ]
    lines += [
        "",
        "| bucket | groups | samples | share | mean groups | padding |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, bucket in result["buckets"].items():
        lines.append(
            f"| {name} | {bucket['num_groups']} | {bucket['samples']} | {100 * bucket['share']:.0f} % | "
            f"{bucket['mean_groups']:.1f} | {100 * bucket['padding_share']:.0f} % |"
        )
    return "\n".join([*lines, "", "![durations and frames](data_report.png)", ""])


def draw(result: dict[str, Any], columns: dict[str, np.ndarray], path: Path) -> None:
    """Durations on the left; on the right frames per video, this run's sampling beside a fixed rate."""
    import matplotlib

    matplotlib.use("Agg")  # no display is needed, nor looked for
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    edges = DURATION_EDGES_S
    names = [
        f"{low:g}-{high:g}" if np.isfinite(high) else f"> {low:g}" for low, high in zip(edges, edges[1:], strict=False)
    ]
    left.bar(names, result["videos"]["histogram"], color="tab:blue")
    left.tick_params(axis="x", rotation=45)
    left.set(xlabel="duration of the video, s", ylabel="videos")
    frames = {name: values for name, values in columns.items() if name != "duration_s"}
    most = max((int(values.max(initial=1)) for values in frames.values()), default=1)
    bins = np.linspace(0, most, 25)
    for name, values in frames.items():
        right.hist(values, bins=bins, alpha=0.6, label=name)
    right.set(xlabel="frames that are looked at", ylabel="videos")
    right.legend()
    with written_whole(path) as part:
        figure.savefig(part, format="png", dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
