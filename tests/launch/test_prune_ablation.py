"""Table 7's arms: nested random subsets, the pruned one of the same pool, each arm run once, an honest verdict."""

import json
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from configs.ablations.pruning import get_config
from launch import prune_ablation
from launch.prune_ablation import ARMS, BEFORE, PRUNED, RANDOM, RANDOM_TWICE, check, choose_videos, run
from vxlpro_jax.eval.arms import spread


def small(**changes: Any) -> ConfigDict:
    config = get_config()
    with config.unlocked():
        config.num_videos, config.pool_videos, config.seeds = 2, 6, (1, 2)
        config.bank = ConfigDict({"busy": 4, "still": 2, "slow": 2})
        config.heldout = ConfigDict({"busy": 5, "standard": 5})
        config.batch_size = 4
        config.optimizer.warmup_steps = 1
        config.update(changes)
    return config


SIMILARITY = {f"busy_{n}": 0.1 + n / 100 for n in range(4)} | {f"still_{n}": 0.9 + n / 100 for n in range(4)}


def test_random_subsets_are_nested_and_the_pruned_one_is_of_the_same_pool() -> None:
    settings = check(small())
    for seed in range(5):
        arms = {arm: choose_videos(arm, seed, settings, SIMILARITY) for arm in ARMS}
        assert {arm: len(videos) for arm, videos in arms.items()} == {RANDOM: 2, RANDOM_TWICE: 4, PRUNED: 2}
        assert set(arms[RANDOM]) < set(arms[RANDOM_TWICE])
        assert all(name.startswith("busy") for name in arms[PRUNED])  # six of eight hold two busy ones at least
        assert arms[PRUNED] == choose_videos(PRUNED, seed, settings, dict(reversed(SIMILARITY.items())))
    drawn = {tuple(choose_videos(RANDOM, seed, settings, SIMILARITY)) for seed in range(10)}
    assert len(drawn) > 5


@pytest.mark.parametrize("right", [{RANDOM: 0.4, PRUNED: 0.5}, {RANDOM: 0.5, PRUNED: 0.5}])
def test_an_arm_is_run_once_and_the_verdict_follows_the_marks(
    right: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []

    def arm_of(arm: str, seed: int, *_: Any) -> dict[str, Any]:
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append((arm, seed))
        marks = {world: {"all": right.get(arm, 0.3) + seed / 10} for world in ("busy", "standard")}
        return {"arm": arm, "seed": seed, "num_videos": 2, "num_busy": 1, "num_steps": 3, "marks": marks}

    monkeypatch.setattr(prune_ablation, "prepare", lambda *arguments: object())
    monkeypatch.setattr(prune_ablation, "run_arm", arm_of)
    with pytest.raises(KeyboardInterrupt):
        run(check(small()), tmp_path)
    told, done[:] = list(done), []
    result = run(check(small()), tmp_path)
    assert [*told, *done] == [(BEFORE, 0), *((arm, seed) for seed in (1, 2) for arm in ARMS)]
    assert result["passed"] == (right[PRUNED] > right[RANDOM])
    assert result["arms"][PRUNED]["right"]["busy"] == spread([right[PRUNED] + 0.1, right[PRUNED] + 0.2])
    assert result["pruned_minus"][RANDOM_TWICE]["busy"]["mean"] == pytest.approx(right[PRUNED] - 0.3)
    assert json.loads((tmp_path / "result.json").read_text()) == json.loads(json.dumps(result))
    assert f"| {PRUNED} | 2 | 1 | 3 | {right[PRUNED] + 0.15:.3f} ± 0.071 |" in (tmp_path / "result.md").read_text()
    done.clear()
    assert run(check(small()), tmp_path) == result and not done
    with pytest.raises(ValueError, match="holds arms of another run .*batch_size: 4 there, 8 now"):
        run(check(small(batch_size=8)), tmp_path)
    monkeypatch.setattr(prune_ablation, "tower_fingerprint", lambda *arguments: "another")
    with pytest.raises(ValueError, match="holds arms of another run .*model: .* there, 'another' now"):
        run(check(small()), tmp_path)


def test_senseless_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="config.pool_videos=9: from 2 x num_videos=4 to the 8 videos"):
        check(small(pool_videos=9))
    with pytest.raises(ValueError, match="config.heldout.busy=7: a multiple of 5"):
        check(small(heldout=ConfigDict({"busy": 7})))
    with pytest.raises(ValueError, match="config.seeds is empty"):
        check(small(seeds=()))
    assert check(get_config()).num_videos * 3 == get_config().pool_videos


@pytest.mark.slow
def test_the_whole_comparison_runs_and_trains(tmp_path: Path) -> None:
    """Two steps an arm: what is asked here is that every part is really there, not that it learns."""
    result = run(check(small(seeds=(1,))), tmp_path)
    marks = {row["arm"]: row["marks"] for row in result["rows"]}
    assert result["arms"][RANDOM_TWICE]["num_steps"] == 6 and result["arms"][PRUNED]["num_busy"] == [2]
    assert len({json.dumps(found) for found in marks.values()}) > 1  # training changed what is answered
