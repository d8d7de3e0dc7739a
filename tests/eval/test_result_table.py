"""Bars bite, chance is judged for all kinds together, and the summary is strict JSON."""

import json
from dataclasses import replace

import numpy as np
import pytest

from vxlpro_jax.eval.benchmark import ACCURACY, make_row
from vxlpro_jax.eval.harness import BrokenVideo, Result
from vxlpro_jax.eval.result_table import Bars, judge, missed, to_markdown, to_summary

NO_BARS = Bars(at_least={}, at_chance=(), max_broken=0, reported_only=False)


def result_of(*rows, broken=()) -> Result:
    return Result("main", {"seed": 1, "prompt": "a\nb`"}, list(rows), [], list(broken), 0)


def row(name: str, num_right: int, n: int, chance: float | None = None):
    return make_row(name, ACCURACY, [1.0] * num_right + [0.0] * (n - num_right), chance)


@pytest.mark.parametrize(("num_right", "is_met"), [(484, False), (485, True), (500, True)])
def test_at_least(num_right: int, is_met: bool) -> None:
    bars = replace(NO_BARS, at_least={ACCURACY: {"shape": 0.97}})
    verdicts = judge(result_of(row("shape", num_right, 500)), bars)
    assert [v.is_met for v in verdicts] == [is_met]
    assert len(missed(verdicts, bars)) == (not is_met)
    assert missed(verdicts, replace(bars, reported_only=True)) == []


def test_a_bar_without_its_row_is_missed() -> None:
    bars = replace(NO_BARS, at_least={"iou": {"all": 0.5}}, at_chance=("colour", "digit"))
    result = result_of(row("shape", 5, 5), row("digit", 5, 50))
    verdicts = judge(result, bars)
    assert [v.is_met for v in verdicts] == [False, False, False]
    assert "| iou | all | 0 | | | | >= 0.5 | **missed** |" in to_markdown(result, verdicts)


def test_at_chance() -> None:
    bars = replace(NO_BARS, at_chance=("shape",))
    for num_right, is_met in ((83, True), (99, True), (100, False), (68, True), (66, False)):
        assert judge(result_of(row("shape", num_right, 500, 1 / 6)), bars)[0].is_met is is_met, num_right


def test_a_guesser_is_found_at_chance_in_all_kinds_together() -> None:
    """Each kind by itself at 95 % would fail about a quarter of all honest guessers."""
    rng = np.random.default_rng(11)
    chances = {"shape": 1 / 6, "colour": 1 / 8, "digit": 1 / 10, "direction": 1 / 4, "when": 0.13, "first": 1 / 2}
    bars = replace(NO_BARS, at_chance=tuple(chances))
    passed = 0
    for _ in range(400):
        rows = [row(name, int(rng.binomial(500, chance)), 500, chance) for name, chance in chances.items()]
        passed += all(v.is_met for v in judge(result_of(*rows), bars))
    assert 0.92 <= passed / 400 <= 0.98


def test_broken_videos_miss_unless_allowed() -> None:
    result = result_of(row("shape", 5, 5), broken=[BrokenVideo("v1", "cut\nshort", 6)])
    assert [v.is_met for v in judge(result, NO_BARS)] == [False]
    assert judge(result, replace(NO_BARS, max_broken=1)) == []
    text = to_markdown(result, judge(result, NO_BARS))
    assert "1 broken videos, 6 questions not asked" in text and "- v1: cut\\nshort" in text


def test_markdown_has_knobs_intervals_and_chance() -> None:
    text = to_markdown(result_of(row("shape", 450, 500, 1 / 6)), [])
    assert "- seed: `1`" in text and "- prompt: `a\\nb'`" in text
    assert "| accuracy | shape | 500 | 0.900 | 0.871 .. 0.923 | 0.167 |  |  |" in text


def test_summary_is_strict_json() -> None:
    result = result_of(make_row("iou", "iou", [0.3]), row("shape", 5, 5), broken=[BrokenVideo("v1", "x", 6)])
    summary = to_summary(result, judge(result, NO_BARS), NO_BARS)
    again = json.loads(json.dumps(summary, allow_nan=False))
    assert again["rows"][0]["low"] is None and again["rows"][1]["n"] == 5
    assert again["broken"] == [{"video": "v1", "reason": "x", "num_questions": 6}]
