"""Measure a model: `python -m launch.evaluate --config=configs/tiny/eval.py` runs a benchmark's variants against bars.

More: [--config.KEY=VALUE] [--only=NAME,NAME] [--workdir=DIR] [--json=FILE]. DIR gets the predictions of each variant
(NAME.jsonl), a heat map where cells were asked (NAME.png), summary.json and results.md; a killed run goes on when
started again. Exit code: 0, 1 when a bar is missed, 2 for bad arguments. The benchmark "keep_rates" has no variants:
see launch/keep_rates.py.

Source: ours.
"""

import difflib
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
from ml_collections import ConfigDict

import vxlpro_jax
from launch import heat_map, keep_rates
from launch.command_line import fail, read_command
from launch.whole_file import write_whole
from vxlpro_jax.config import build
from vxlpro_jax.data.conversation import question_prompt
from vxlpro_jax.eval.benchmark import Benchmark
from vxlpro_jax.eval.harness import AskableModel, RunOptions, run_benchmark
from vxlpro_jax.eval.needle import NeedleHaystack, NeedleVariant
from vxlpro_jax.eval.result_table import Bars, judge, missed, to_markdown, to_summary
from vxlpro_jax.eval.synthetic_world import SyntheticWorld, WorldVariant
from vxlpro_jax.models.presets import config_to_dict
from vxlpro_jax.types import VIDEO_MARK

COMMAND = "launch.evaluate"
OPTIONS = {
    "workdir": "folder of the run (default: runs/eval/MODEL-seedN, runs/eval/keep_rates)",
    "only": "names of the variants to run, with commas between them (default: all)",
    "json": "also write the summary to this file",
}

KEEP_RATES = "keep_rates"


@dataclass(frozen=True)
class EvaluateConfig:
    """What configs/tiny/eval.py holds.

    model: what vxlpro_jax.load takes, empty for the embedded one. seed: of what is generated. order: variants that are
    run, one after the other. variants: each a block of `settings` (the benchmark's own) and `bars`.
    """

    benchmark: str
    model: str
    seed: int
    order: tuple[str, ...]
    run: RunOptions
    variants: dict[str, ConfigDict]


@dataclass(frozen=True)
class NeedleConfig(EvaluateConfig):
    """What configs/eval/needle.py holds. haystack: stands for `haystack.file` of all its variants."""

    haystack: str


@dataclass(frozen=True)
class VariantBlock:
    settings: ConfigDict
    bars: Bars


# Name in a config: classes of the configuration and of a variant's settings, and how the variant is made from (name,
# seed, settings).
BENCHMARKS: dict[str, tuple[type[EvaluateConfig], type, Callable[[str, int, Any], Benchmark]]] = {
    "synthetic_world": (EvaluateConfig, WorldVariant, SyntheticWorld),
    "needle": (NeedleConfig, NeedleVariant, NeedleHaystack),
}


def read_config(
    config: ConfigDict, only: Sequence[str] = ()
) -> tuple[EvaluateConfig, dict[str, tuple[Benchmark, Bars]]]:
    """The run and its variants, `only` those named. Raises ValueError on anything unknown or missing, naming its
    neighbour."""
    benchmark = config.get("benchmark")
    if benchmark not in BENCHMARKS:
        raise ValueError(f"config.benchmark={benchmark!r}: one of {', '.join([*BENCHMARKS, KEEP_RATES])} is accepted.")
    config_class, variant_class, make = BENCHMARKS[benchmark]
    settings = build(config, config_class)
    names = tuple(only) or settings.order
    for name in names:
        if name not in settings.variants:
            near = difflib.get_close_matches(name, settings.variants, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(settings.variants)}."
            raise ValueError(f"{name!r} is no variant of this configuration: {hint}")
    variants = {}
    for name in names:
        block = build(settings.variants[name], VariantBlock, f"config.variants.{name}")
        where = f"config.variants.{name}.settings"
        variants[name] = make(name, settings.seed, build(block.settings, variant_class, where)), block.bars
    return settings, variants


def evaluate(
    variants: Mapping[str, tuple[Benchmark, Bars]],
    model: AskableModel,
    options: RunOptions,
    workdir: Path,
    model_knobs: Mapping[str, object],
    show_prompt: Callable[[Any, str], str],
) -> tuple[dict[str, Any], list[str]]:
    """Run the variants; results are printed and written after each one. Returns the summary and what was missed, in
    words."""
    workdir.mkdir(parents=True, exist_ok=True)
    summaries, sections, misses = [], [], []
    for name, (benchmark, bars) in variants.items():
        start = time.perf_counter()
        result = run_benchmark(benchmark, model, workdir, options, model_knobs, show_prompt)
        seconds = time.perf_counter() - start
        if result.num_resumed:
            said = f"{name}: {result.num_resumed} answers were taken from {workdir}; delete it to ask them again"
            print(said, file=sys.stderr)
        verdicts = judge(result, bars)
        section = to_markdown(result, verdicts)
        if result.grid:
            heat_map.draw(result.grid, name, workdir / f"{name}.png")
            section += f"\n{heat_map.to_markdown(result.grid)}\n![{name}]({name}.png)\n"
        sections.append(f"{section}\n{seconds:.0f} s.\n")
        print(sections[-1], flush=True)
        summaries.append({**to_summary(result, verdicts, bars), "seconds": seconds})
        misses += [f"{name}: {verdict.metric} of {verdict.row}: {verdict.said}" for verdict in missed(verdicts, bars)]
        summary = {"variants": summaries, "missed": misses}
        write_whole(workdir / "summary.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
        write_whole(workdir / "results.md", "\n".join(sections))
    return summary, misses


def describe_model(model: "vxlpro_jax.VideoXLPro", source: str) -> dict[str, object]:
    """What identifies the model in a result: where it came from, and a fingerprint of all weights and switches."""
    config = config_to_dict(model.config)
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=16)
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.params):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).view(np.uint8).data)
    identity = {"model": source or "embedded", "fingerprint": digest.hexdigest(), "selector": config["selector"]}
    return {**identity, "version": vxlpro_jax.__version__}


def prompt_text(model: "vxlpro_jax.VideoXLPro", index: "vxlpro_jax.VideoIndex", question: str) -> str:
    """The prompt that `ask` reads, decoded from its ids; the video is written as its groups and their times."""
    ids = [int(i) for i in question_prompt(question, model.tokenizer.encode).ids]
    place = ids.index(VIDEO_MARK)
    before, after = (
        model.tokenizer.decode(part, skip_special_tokens=False) for part in (ids[:place], ids[place + 1 :])
    )
    times = [model.config.stamps.text.format(float(time)) for time in index.group_times_s]
    shown = times if len(times) < 4 else [*times[:2], "...", times[-1]]
    return f"{before}<{len(times)} groups: {' '.join(shown)}>{after}"


def evaluate_variants(values: ConfigDict, only: Sequence[str], workdir: str | None) -> tuple[dict[str, Any], list[str]]:
    """The command for a benchmark of variants. Returns the summary and what was missed, in words."""
    config, variants = read_config(values, only)
    model = vxlpro_jax.load(config.model or None)
    knobs = describe_model(model, config.model)
    folder = Path(workdir or f"runs/eval/{str(knobs['fingerprint'])[:12]}-seed{config.seed}")
    print(f"Results go to {folder}", file=sys.stderr)
    return evaluate(
        variants, model, config.run, folder, knobs, lambda index, question: prompt_text(model, index, question)
    )


def main(argv: list[str] | None = None) -> int:
    values, options = read_command(COMMAND, sys.argv[1:] if argv is None else argv, OPTIONS)
    only = [name.strip() for name in (options["only"] or "").split(",") if name.strip()]
    try:
        if values.get("benchmark") == KEEP_RATES:
            if only:
                raise ValueError(f"--only={options['only']}: the benchmark {KEEP_RATES!r} has no variants.")
            summary, misses = keep_rates.evaluate(values, Path(options["workdir"] or f"runs/eval/{KEEP_RATES}"))
        else:
            summary, misses = evaluate_variants(values, only, options["workdir"])
        if options["json"]:
            write_whole(Path(options["json"]), json.dumps(summary, indent=1, allow_nan=False) + "\n")
    except (ValueError, OSError) as error:
        fail(COMMAND, str(error))
    if misses:
        print("\n".join(["Missed:", *misses]), file=sys.stderr)
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
