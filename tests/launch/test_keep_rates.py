"""Keep rates: every way keeps as many rows, videos are encoded once and asked once, claims decide the exit."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

import vxlpro_jax
from configs.eval.keep_rate import get_config
from launch import keep_rates
from launch.evaluate import main
from launch.keep_rates import ARMS, FEWER, RANDOM, RELEASED, SELECTOR, Length, check, run, ways
from vxlpro_jax.eval.benchmark import VideoSource
from vxlpro_jax.eval.synthetic_world import SyntheticWorld
from vxlpro_jax.infer.video_index import VideoIndex
from vxlpro_jax.models.presets import PRESETS

CONFIG = "--config=configs/eval/keep_rate.py"


class PretendModel:
    """Answers rightly where the selector kept the rows, and in whole videos; counts what it is asked."""

    config = PRESETS["tiny"]
    fingerprint = "pretend"

    def __init__(self) -> None:
        self.indexed: list[int | None] = []
        self.asked: list[tuple[int, dict[str, Any]]] = []
        self.truths: dict[str, str] = {}
        self.stops_after: int | None = None

    def index(self, source: Path, fps: float, max_frames: int | None = None) -> VideoIndex:
        if max_frames is None and self.stops_after == self.indexed.count(None):
            raise KeyboardInterrupt
        self.indexed.append(max_frames)
        times = np.linspace(0, 64, (max_frames or 64) // 4, endpoint=False)
        tokens = np.arange(len(times) * 4.0).reshape(-1, 4, 1)
        return VideoIndex(tokens, times, times, times, 64.0, "video", "", {"spacing_s": 1.0}, {})

    def ask(self, index: VideoIndex, questions: list[str], max_new_tokens: int, **told: Any) -> list[Any]:
        self.asked.append((len(index.tokens), told))
        knows = "budget" in told or len(index.tokens) == 16
        texts = [self.truths[question] if knows else "no idea" for question in questions]
        return [SimpleNamespace(text=text, evidence=[], num_tokens=40 + 7 * len(index.tokens)) for text in texts]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> PretendModel:
    """Stands for the embedded model and for the files of the videos."""
    pretend = PretendModel()

    def open_video(world: SyntheticWorld, video: str, folder: Path) -> VideoSource:
        pretend.truths = {s.question: s.truth for s in world.samples() if s.video == video}
        return VideoSource(folder / f"{video}.mp4", is_temporary=True)

    monkeypatch.setattr(SyntheticWorld, "open_video", open_video)
    monkeypatch.setattr(vxlpro_jax, "load", lambda source: pretend)
    return pretend


def small(**changes: Any) -> ConfigDict:
    config = get_config()
    with config.unlocked():
        config.seeds, config.num_videos = (1, 2), 2
        config.lengths = ConfigDict({"fits": {"length_s": 64, "kept_groups": (16, 8, 3)}})
        config.claims = ConfigDict({"half": {**get_config().claims.half_loses_at_most_two_points}})
        config.update(changes)
    return config


def test_every_way_keeps_as_much(model: PretendModel) -> None:
    whole = model.index(Path("a.mp4"), fps=1.0)
    settings = check(small())
    found = list(ways(model, Path("a.mp4"), whole, settings.lengths["fits"], settings, np.random.default_rng(0)))
    assert [(arm, groups) for arm, groups, *_ in found] == [
        *((SELECTOR, 16), (RELEASED, 16)),
        *((SELECTOR, 8), (RELEASED, 8), (RANDOM, 8), (FEWER, 8)),
        *((SELECTOR, 3), (RANDOM, 3), (FEWER, 3)),  # 12 tokens are no multiple of 16
    ]
    for arm, groups, index, told in found:
        if arm == SELECTOR:
            assert index is whole and told == {"budget": 7 * groups}
        elif arm == RELEASED:
            assert index is whole and told == {"keep_rate": groups / 16}
        else:
            assert len(index.tokens) == len(index.group_times_s) == groups and not told
    part = next(index for arm, groups, index, _ in found if (arm, groups) == (RANDOM, 8))
    places = np.searchsorted(whole.group_times_s, part.group_times_s)
    assert sorted({*places.tolist()}) == places.tolist() != list(range(8))
    assert (whole.tokens[places] == part.tokens).all() and (whole.group_times_s[places] == part.group_times_s).all()
    long = Length(64, (8, 1))  # all of it cannot be read: the released rule would keep all stamps
    arms = {arm for arm, *_ in ways(model, Path("a.mp4"), whole, long, settings, np.random.default_rng(0))}
    assert arms == {SELECTOR, RANDOM, FEWER}


def test_a_killed_run_goes_on_and_says_what_was_right(model: PretendModel, tmp_path: Path) -> None:
    model.stops_after = 2
    with pytest.raises(KeyboardInterrupt):
        run(check(small()), tmp_path)
    model.stops_after = None
    result = run(check(small()), tmp_path)
    assert model.indexed.count(None) == 4 and len(model.asked) == 4 * 9  # each video once
    arms = result["lengths"]["fits"]["arms"]
    assert set(arms) == set(ARMS) and list(arms[RANDOM]) == ["8", "3"]
    assert arms[SELECTOR]["3"]["right"] == {"mean": 1.0, "deviation": 0.0, "values": [1.0, 1.0]}
    assert arms[RANDOM]["8"]["right"]["mean"] == arms[FEWER]["8"]["right"]["mean"] == 0
    assert arms[FEWER]["8"]["rows"] == 96 and arms[SELECTOR]["16"]["kinds"]["shape"]["n"] == 4
    assert result["claims"]["half"]["holds"] and result["passed"]
    assert json.loads((tmp_path / "result.json").read_text()) == json.loads(json.dumps(result))
    assert (
        "| 8 | 152 | 1.000 ± 0.000 | 1.000 ± 0.000 | 0.000 ± 0.000 | 0.000 ± 0.000 |"
        in (tmp_path / "result.md").read_text()
    )
    assert (tmp_path / "result.png").stat().st_size > 1000
    run(check(small(num_videos=1)), tmp_path)
    assert model.indexed.count(None) == 4  # fewer of them, more seeds or other claims ask nothing twice
    with pytest.raises(ValueError, match="holds videos of another run .*max_new_tokens: 24 there, 8 now"):
        run(check(small(max_new_tokens=8)), tmp_path)


def test_the_exit_follows_the_claims(
    model: PretendModel, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        CONFIG,
        f"--workdir={tmp_path}",
        "--config.num_videos=1",
        "--config.seeds=(1,)",
        f"--json={tmp_path / 'r'}",
    ]
    monkeypatch.setattr(keep_rates, "check", lambda config: replace(check(config), **_only_fits(above=0.2)))
    assert main(words) == 0
    monkeypatch.setattr(keep_rates, "check", lambda config: replace(check(config), **_only_fits(above=1.0)))
    assert main(words) == 1
    assert "does not hold: fits: selector at 2 groups against random groups at 2" in capsys.readouterr().err
    assert not json.loads((tmp_path / "r").read_text())["passed"]
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--only=fits"])
    assert "the benchmark 'keep_rates' has no variants" in capsys.readouterr().err


def _only_fits(above: float) -> dict[str, Any]:
    settings = check(get_config())
    claim = replace(settings.claims["an_eighth_beats_random_groups"], above=above)
    return {"lengths": {"fits": settings.lengths["fits"]}, "claims": {"an_eighth": claim}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.claims.half.update({"at": 7}), r"config.claims.half speaks of \[7\]"),
        (lambda c: c.claims.half.update({"better": "selektor"}), r"config.claims.half speaks of \['selektor'\]"),
        (lambda c: c.lengths.fits.update({"kept_groups": (3, 16)}), "config.lengths.fits.kept_groups.*most to least"),
        (lambda c: c.update({"num_videos": 0}), "config.num_videos=0: one each at least"),
    ],
)
def test_slips_are_refused(change: Any, message: str) -> None:
    config = small().unlock()
    change(config)
    with pytest.raises(ValueError, match=message):
        check(config)
