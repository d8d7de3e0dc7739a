"""Figure 7 at tiny size, one of the benchmarks of launch/evaluate.py: --config=configs/eval/keep_rate.py.

Each video is encoded once and asked with ever less of it kept, in four ways that keep as many rows: the selector's best
("selector"), the released rule, where every stamp stays ("released rule"), whole groups drawn at random ("random
groups"), and a video of which fewer frames were looked at ("fewer frames"). The work folder gets videos.jsonl (a line
per video: a killed run goes on after the last), result.json, result.md and result.png. A claim of the configuration
that does not hold is a bar that is missed.

Source: paper 4.8, Figure 7; docs/ablations.md.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from absl import logging
from ml_collections import ConfigDict
from tqdm import tqdm

import vxlpro_jax
from launch.whole_file import write_whole
from vxlpro_jax.config import build
from vxlpro_jax.data.row_log import RowLog
from vxlpro_jax.eval.arms import said, spread
from vxlpro_jax.eval.benchmark import ACCURACY, Sample, share_interval
from vxlpro_jax.eval.prediction_log import delete_file
from vxlpro_jax.eval.synthetic_world import SyntheticWorld, WorldVariant

matplotlib.use("Agg")  # before pyplot: no window is wanted
from matplotlib import pyplot  # noqa: E402

SELECTOR, RELEASED, RANDOM, FEWER = "selector", "released rule", "random groups", "fewer frames"
ARMS = (SELECTOR, RELEASED, RANDOM, FEWER)
RANDOM_SALT = 7


@dataclass(frozen=True)
class Length:
    """kept_groups: from most to least; the first is what the others are compared with."""

    length_s: int
    kept_groups: tuple[int, ...]


@dataclass(frozen=True)
class RateClaim:
    """In videos of `length`, the arm `better` with `at` groups kept has a share of right answers that lies more than
    `above` over that of the arm `worse` with `than_at` groups, on average over the seeds."""

    length: str
    better: str
    at: int
    worse: str
    than_at: int
    above: float


@dataclass(frozen=True)
class KeepConfig:
    """What configs/eval/keep_rate.py holds. model: what vxlpro_jax.load takes, empty for the embedded one."""

    benchmark: Literal["keep_rates"]
    model: str
    seeds: tuple[int, ...]
    num_videos: int
    kinds: tuple[str, ...]
    size: tuple[int, ...]
    fps: float
    max_new_tokens: int
    lengths: dict[str, Length]
    claims: dict[str, RateClaim]


def check(config: ConfigDict) -> KeepConfig:
    """The settings. Raises ValueError with the key and what it accepts."""
    settings = build(config, KeepConfig)
    if not settings.seeds or settings.num_videos < 1:
        raise ValueError(f"config.seeds={settings.seeds}, config.num_videos={settings.num_videos}: one each at least.")
    for name, length in settings.lengths.items():
        kept = length.kept_groups
        if not kept or list(kept) != sorted({*kept}, reverse=True) or kept[-1] < 1:
            raise ValueError(f"config.lengths.{name}.kept_groups={kept}: numbers above 0, from most to least.")
    for name, claim in settings.claims.items():
        known = settings.lengths[claim.length].kept_groups if claim.length in settings.lengths else ()
        spoken = [(claim.length, settings.lengths), (claim.better, ARMS), (claim.worse, ARMS)]
        spoken += [(claim.at, known), (claim.than_at, known)]
        if unknown := [value for value, accepted in spoken if value not in accepted]:
            raise ValueError(f"config.claims.{name} speaks of {unknown}: no such length, arm or kept_groups.")
    return settings


def group_rows(model: Any) -> int:
    """Rows that a group takes with its stamp."""
    return model.config.tokens_per_group + model.config.stamps.num_tokens


def ways(
    model: Any, video: Any, whole: Any, length: Length, settings: KeepConfig, rng: np.random.Generator
) -> Iterator[tuple[str, int, Any, dict[str, Any]]]:
    """(arm, groups, index, what ask() is told) of every way to keep that much of a video.

    whole: the index of all frames. The released rule is left out where it would round, or where the stamps alone do
    not fit; the arms that take part of the video, where that is all of it.
    """
    num_groups, num_tokens = whole.tokens.shape[:2]
    per_group = model.config.dts.frames_per_group
    for groups in length.kept_groups:
        yield SELECTOR, groups, whole, {"budget": groups * group_rows(model)}
        fits = num_groups <= length.kept_groups[0]
        if fits and groups * num_tokens % model.config.selector.keep_multiple == 0:
            yield RELEASED, groups, whole, {"keep_rate": groups / num_groups}
        if groups < num_groups:
            chosen = np.sort(rng.permutation(num_groups)[:groups])
            part = replace(whole, tokens=whole.tokens[chosen], group_times_s=whole.group_times_s[chosen])
            yield RANDOM, groups, part, {}
            yield FEWER, groups, model.index(video, fps=settings.fps, max_frames=groups * per_group), {}


def ask_video(
    model: Any, world: SyntheticWorld, samples: Sequence[Sample], folder: Path, length: Length, settings: KeepConfig
) -> list[dict[str, Any]]:
    """All ways over one video: which kinds were answered right, and how many rows the LLM read on average.

    Every answer is marked by the groups of the whole video: a "when" has the same window in all ways.
    """
    source = world.open_video(samples[0].video, folder)
    seed = int(world.settings["seed"])
    rng = np.random.default_rng([seed, int(samples[0].video), length.length_s, RANDOM_SALT])
    found = []
    try:
        whole = model.index(source.path, fps=settings.fps)
        for arm, groups, index, told in ways(model, source.path, whole, length, settings, rng):
            questions = [sample.question for sample in samples]
            answers = model.ask(index, questions, max_new_tokens=settings.max_new_tokens, **told)
            right = {
                sample.kind: int(world.score(sample, answer.text, answer.evidence, whole)[ACCURACY])
                for sample, answer in zip(samples, answers, strict=True)
            }
            rows = float(np.mean([answer.num_tokens for answer in answers]))
            found.append({"arm": arm, "groups": groups, "rows": round(rows, 2), "right": right})
    finally:
        delete_file(source.path)
    return found


def run(settings: KeepConfig, workdir: Path) -> dict[str, Any]:
    """All videos that are not done yet; returns and writes the result."""
    model = vxlpro_jax.load(settings.model or None)
    # Videos asked in another way are never put beside each other; more of them may join.
    header = {**dataclasses.asdict(settings), "encoder": model.fingerprint}
    for free in ("benchmark", "seeds", "num_videos", "claims"):
        header.pop(free)
    log = RowLog(workdir / "videos.jsonl", header, "videos")
    rows = {(row["length"], row["seed"], row["video"]): row for row in log.rows}
    folder = workdir / "videos"
    folder.mkdir(exist_ok=True)
    wanted = list(_videos(settings))
    for name, seed, video, world, samples in tqdm(wanted, unit="video", mininterval=5.0):
        if (name, seed, video) not in rows:
            asked = ask_video(model, world, samples, folder, settings.lengths[name], settings)
            row = {"length": name, "seed": seed, "video": video, "asked": asked}
            log.append(row, sync=True)
            rows[name, seed, video] = row
    result = summarise([rows[key] for key in ((name, seed, video) for name, seed, video, *_ in wanted)], settings)
    write_whole(workdir / "result.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    write_whole(workdir / "result.md", to_markdown(result))
    draw(result, workdir / "result.png")
    return result


def _videos(settings: KeepConfig) -> Iterator[tuple[str, int, str, SyntheticWorld, list[Sample]]]:
    """Every video with its questions, one of each kind; lengths and seeds in turn, so that they grow together."""
    worlds = []
    for name, length in settings.lengths.items():
        variant = WorldVariant(
            world="standard",
            lengths_s=(length.length_s,),
            size=(settings.size[0], settings.size[1]),
            num_videos=settings.num_videos,
            kinds=settings.kinds,
            questions_per_kind=1,
            twist="none",
        )
        for seed in settings.seeds:
            world = SyntheticWorld(f"keep-{name}", seed, variant)
            by_video: dict[str, list[Sample]] = {}
            for sample in world.samples():
                by_video.setdefault(sample.video, []).append(sample)
            worlds.append((name, seed, world, by_video))
    for number in range(settings.num_videos):
        for name, seed, world, by_video in worlds:
            video = list(by_video)[number]
            yield name, seed, video, world, by_video[video]


def summarise(rows: Sequence[Mapping[str, Any]], settings: KeepConfig) -> dict[str, Any]:
    """Of every length, arm and number of groups: right answers over the seeds and by kind; every claim judged."""
    gathered: dict[tuple[str, str, int], dict[int, list[Mapping[str, Any]]]] = {}
    for row in rows:
        for asked in row["asked"]:
            place = gathered.setdefault((row["length"], asked["arm"], asked["groups"]), {})
            place.setdefault(row["seed"], []).append(asked)
    lengths: dict[str, Any] = {
        name: {"length_s": length.length_s, "arms": {arm: {} for arm in ARMS}}
        for name, length in settings.lengths.items()
    }
    for (name, arm, groups), by_seed in gathered.items():
        asked = [one for found in by_seed.values() for one in found]
        shares = [
            float(np.mean([value for one in found for value in one["right"].values()])) for found in by_seed.values()
        ]
        lengths[name]["arms"][arm][str(groups)] = {
            "rows": round(float(np.mean([one["rows"] for one in asked])), 1),
            "right": spread(shares),
            "kinds": {
                kind: _share([one["right"][kind] for one in asked if kind in one["right"]]) for kind in settings.kinds
            },
        }
    claims = {name: _judge(claim, lengths) for name, claim in settings.claims.items()}
    return {
        "seeds": list(settings.seeds),
        "num_videos": settings.num_videos,
        "lengths": lengths,
        "claims": claims,
        "passed": all(claim["holds"] for claim in claims.values()),
    }


def _share(values: Sequence[int]) -> dict[str, Any]:
    low, high = share_interval(sum(values), len(values))
    return {"n": len(values), "value": sum(values) / len(values), "low": low, "high": high}


def _judge(claim: RateClaim, lengths: Mapping[str, Any]) -> dict[str, Any]:
    arms = lengths[claim.length]["arms"]
    one, two = (
        arms[arm][str(groups)]["right"]["values"]
        for arm, groups in ((claim.better, claim.at), (claim.worse, claim.than_at))
    )
    difference = spread([first - second for first, second in zip(one, two, strict=True)])
    said = f"{claim.length}: {claim.better} at {claim.at} groups against {claim.worse} at {claim.than_at}"
    return {"said": said, "above": claim.above, "difference": difference, "holds": difference["mean"] > claim.above}


def to_markdown(result: Mapping[str, Any]) -> str:
    """A table of the arms and one of the selector by kind for each length; below, what is claimed."""
    lines = []
    for name, length in result["lengths"].items():
        arms, most = length["arms"], max(int(groups) for groups in length["arms"][SELECTOR])
        lines += [
            f"{name}: videos of {length['length_s']} s, {result['num_videos']} of each of {len(result['seeds'])} seeds",
            "",
        ]
        lines += [f"| groups kept | rows read | {' | '.join(ARMS)} |", "| --- |" + " --- |" * (len(ARMS) + 1)]
        for groups, found in arms[SELECTOR].items():
            cells = [said(arms[arm][groups]["right"]) if groups in arms[arm] else "" for arm in ARMS]
            lines.append(f"| {groups} | {found['rows']:.0f} | {' | '.join(cells)} |")
        kinds = list(arms[SELECTOR][str(most)]["kinds"])
        lines += ["", f"| selector, groups kept | {' | '.join(kinds)} |", "| --- |" + " --- |" * len(kinds)]
        for groups, found in arms[SELECTOR].items():
            lines.append(f"| {groups} | {' | '.join(_within(found['kinds'][kind]) for kind in kinds)} |")
        lines.append("")
    for claim in result["claims"].values():
        holds = "holds" if claim["holds"] else "does NOT hold"
        lines.append(
            f"- {claim['said']}: {said(claim['difference'], '+')}, claimed above {claim['above']:+.2f}: {holds}"
        )
    return "\n".join(lines) + "\n"


def _within(found: Mapping[str, Any]) -> str:
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Two panels for each length: the arms over all kinds, with a dot per seed, and the selector by kind."""
    figure, panels = pyplot.subplots(len(result["lengths"]), 2, figsize=(9, 3 * len(result["lengths"])), squeeze=False)
    for (left, right), (name, length) in zip(panels, result["lengths"].items(), strict=True):
        for arm, found in length["arms"].items():
            if found:
                groups = [int(key) for key in found]
                colour = f"C{ARMS.index(arm)}"
                left.plot(groups, [one["right"]["mean"] for one in found.values()], color=colour, label=arm)
                for place, one in zip(groups, found.values(), strict=True):
                    values = one["right"]["values"]
                    left.plot([place] * len(values), values, ".", color=colour, alpha=0.6)
        chosen = length["arms"][SELECTOR]
        for kind in next(iter(chosen.values()))["kinds"]:
            right.plot(
                [int(key) for key in chosen], [one["kinds"][kind]["value"] for one in chosen.values()], label=kind
            )
        left.set_title(f"{name} ({length['length_s']} s), all kinds")
        right.set_title(f"{name}, selector by kind")
        for panel in (left, right):
            panel.set_xscale("log", base=2)
            panel.set_xlabel("groups kept")
            panel.set_ylim(0, 1.05)
            panel.grid(alpha=0.3)
            panel.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=80, metadata={"Software": None})
    pyplot.close(figure)


def evaluate(config: ConfigDict, workdir: Path) -> tuple[dict[str, Any], list[str]]:
    """Run, print what was found, and return it with the claims that do not hold, in words. Raises ValueError for a slip
    in the configuration."""
    logging.set_verbosity(logging.WARNING)
    result = run(check(config), workdir)
    print(to_markdown(result))
    return result, [f"does not hold: {claim['said']}" for claim in result["claims"].values() if not claim["holds"]]
