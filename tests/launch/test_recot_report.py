"""An arm that is done is not run again, unless it was measured otherwise; one of another configuration is refused."""

from types import SimpleNamespace

import pytest
from ml_collections import ConfigDict

from configs.tiny import recot
from launch import recot_report
from vxlpro_jax.config import build
from vxlpro_jax.models.presets import PRESETS
from vxlpro_jax.train.recot_stage import ReCoTRunConfig, ReCoTStage


@pytest.fixture
def runs(monkeypatch):
    """Stands for training and measuring: which seeds were run."""
    seen = []

    def pretend(config, stage, step, material, folder):
        seen.append(config.seed)
        return {"compression": config.recot.compression}

    monkeypatch.setattr(recot_report, "one_run", pretend)
    monkeypatch.setattr(recot_report, "train_step", lambda config, stage: None)
    return seen


def material_of(folder, probe_clips=8, **changes):
    values = recot.get_config()
    with values.unlocked():
        values.update(changes)
    settings = SimpleNamespace(run=values, seeds=(0, 1), probe_clips=probe_clips, foreground_clips=4, foreground_seed=7)
    run = build(values, ReCoTRunConfig)
    tiny = PRESETS["tiny"]
    stage = ReCoTStage.of(run, tiny.vision, tiny.dts)
    return SimpleNamespace(config=settings, run=run, clips=SimpleNamespace(stage=stage), folder=folder)


def test_arms_are_run_once_and_never_taken_for_others(runs, tmp_path):
    arm = ConfigDict({"recot": {"compression": "x2"}})
    first, second = recot_report.run_arm("x2", arm, material_of(tmp_path))
    assert second["seed"] - first["seed"] == 1 and first["compression"] == "x2"
    assert recot_report.run_arm("x2", arm, material_of(tmp_path)) == [first, second] and len(runs) == 2
    recot_report.run_arm("x2", arm, material_of(tmp_path, probe_clips=9))
    assert len(runs) == 4, "measured otherwise: measured again"
    (tmp_path / "x2_0" / "checkpoints" / "1").mkdir(parents=True)
    with pytest.raises(ValueError, match="another configuration: num_steps: 3000 -> 40"):
        recot_report.run_arm("x2", arm, material_of(tmp_path, num_steps=40))
