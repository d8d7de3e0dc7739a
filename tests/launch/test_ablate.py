"""Arms over seeds: every run is the stage with its arm's changes, done runs are kept, claims decide the exit."""

import json

import pytest
from ml_collections import ConfigDict

from configs.ablations import selector
from configs.tiny import answers_mid
from launch import ablate, train_stage
from vxlpro_jax.config import check


def comparison(by=2.0, mark="ranked"):
    config = ConfigDict({"seeds": (1, 2, 3), "marks": ("ranked", "all")})
    config.stage = answers_mid.get_config()
    config.stage.init_from = ""
    config.arms = ConfigDict({"plain": {}, "strong": {"stage": {"ranking_weight": 2.0}}})
    config.claims = ConfigDict({"order": {"better": "strong", "worse": "plain", "mark": mark, "by": by}})
    return config


@pytest.fixture
def runs(monkeypatch):
    """Stands for training: the held-out mark is a function of the arm's weight and the seed."""
    seen = []

    def pretend(stage, folder):
        seen.append((folder.name, stage.seed, stage.stage.ranking_weight))
        folder.mkdir(exist_ok=True)
        value = stage.stage.ranking_weight / 4 + (stage.seed % 10) / 100
        lines = [{"step": 1, "loss": 3.0}, {"step": 2, "eval_ranked": value, "eval_all": 0.5}, {"step": 2, "loss": 1.0}]
        (folder / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))

    monkeypatch.setattr(train_stage, "run", pretend)
    return seen


def test_each_run_is_the_stage_with_its_arms_changes(runs, tmp_path):
    result = ablate.run(comparison(), tmp_path / "study")
    base = answers_mid.get_config()
    assert [(name, seed - base.seed, weight) for name, seed, weight in runs] == [
        *((f"study-plain-{seed}", seed, base.stage.ranking_weight) for seed in (1, 2, 3)),
        *((f"study-strong-{seed}", seed, 2.0) for seed in (1, 2, 3)),
    ]
    assert result["arms"]["strong"]["ranked"]["mean"] - result["arms"]["plain"]["ranked"]["mean"] == pytest.approx(
        (2.0 - base.stage.ranking_weight) / 4
    )
    assert result["claims"][0]["holds"]
    assert json.loads((tmp_path / "study" / "result.json").read_text()) == json.loads(json.dumps(result))
    assert (tmp_path / "study" / "result.png").stat().st_size > 1000
    assert "| strong |" in (tmp_path / "study" / "result.md").read_text()


def test_a_claim_that_does_not_hold_is_told(runs, tmp_path):
    config = comparison(mark="all")
    assert not ablate.run(config, tmp_path / "study")["claims"][0]["holds"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.arms.strong.stage.update({"rankin_weight": 1.0}), "config.arms.strong.*ranking_weight"),
        (lambda c: c.claims.order.update({"better": "stronk"}), r"claims.order speaks of \['stronk'\]"),
        (lambda c: c.claims.order.update({"mark": "right"}), r"claims.order speaks of \['right'\]"),
        (lambda c: c.update({"marks": ("ranked", "al")}), r"config.marks has \['al'\]"),
    ],
)
def test_slips_are_refused(runs, tmp_path, change, message):
    config = comparison().unlock()
    with config.unlocked():
        change(config)
    with pytest.raises(ValueError, match=message):
        ablate.run(config, tmp_path / "study")


def test_all_that_could_not_begin_is_told_before_the_first_run(runs, tmp_path):
    config = comparison().unlock()
    with config.unlocked():
        config.arms.strong.parts = ConfigDict({"dts": str(tmp_path / "dts_{seed}")})
        config.arms.plain.stage = ConfigDict({"trainable": ("projekt",)})
    with pytest.raises(ValueError) as told:
        ablate.run(config, tmp_path / "study")
    assert "config.arms.plain, seed 1: config.stage.trainable=('projekt',)" in str(told.value)
    for seed in (1, 2, 3):
        assert f"config.arms.strong, seed {seed}: config.parts.dts='{tmp_path}/dts_{seed}'" in str(told.value)
    assert not runs


def test_a_wrong_mark_is_told_after_one_run(runs, tmp_path):
    config = comparison().unlock()
    with config.unlocked():
        config.marks = ("ranked", "al")
        config.claims = ConfigDict()
    with pytest.raises(ValueError, match=r"config.marks has \['al'\]"):
        ablate.run(config, tmp_path / "study")
    assert len(runs) == 1


def test_the_selectors_comparison_is_a_stage_with_a_fresh_selector(runs, tmp_path):
    config = selector.get_config()
    _, stages = ablate.read_config(config)
    gate, ranking = stages["gate", 1], stages["ranking", 1]
    assert gate.switches["selector"]["score_use"] == "gate" and gate.stage.ranking_weight == 0
    assert ranking.stage.ranking_weight > 0 and not ranking.switches.get("selector")
    for stage in stages.values():
        assert stage.parts == {"selector": "fresh"}
        check(stage)
    assert sum(mix.weight for mix in ranking.rows.values()) == ranking.rows["train"].weight


def test_a_source_may_follow_the_seed():
    config = comparison()
    config.arms.strong.parts = {"dts": "runs/dts_{seed}"}
    _, runs = ablate.read_config(config)
    assert [runs["strong", seed].parts["dts"] for seed in (1, 2, 3)] == ["runs/dts_1", "runs/dts_2", "runs/dts_3"]
    assert "dts" not in runs["plain", 1].parts
