"""The way from nothing to a model folder, with few steps: what comes out loads and answers something."""

import importlib
import json

import pytest

import vxlpro_jax
from launch import make_tiny
from vxlpro_jax.data.synthetic import sample_video
from vxlpro_jax.data.synthetic_files import write_video


@pytest.fixture
def few_steps(monkeypatch):
    """Every stage's configuration with a small bank and two steps."""
    for name in make_tiny.STAGES:
        module = importlib.import_module(f"configs.tiny.{name}")
        config = module.get_config()
        with config.unlocked():
            config.optimizer.warmup_steps = 1
            if "recot" in config:
                config.num_steps, config.data.num_videos, config.data.num_heldout = 2, 200, 200
            else:
                config.stage.num_steps = 2
                config.vision.num_videos = config.vision.num_heldout = 200  # fewer lack some look
                config.vision.num_shuffled = 3
                config.vision.num_textures = min(config.vision.num_textures, 2)
                for mix in config.rows.values():
                    mix.batch_size = 2
        monkeypatch.setattr(module, "get_config", lambda config=config: config.copy_and_resolve_references().unlock())


@pytest.mark.slow
def test_stages_run_resume_and_export(few_steps, tmp_path, capsys):
    assert make_tiny.main(["--workdir", str(tmp_path / "work"), "--out", str(tmp_path / "model")]) == 0
    seconds = json.loads((tmp_path / "work" / "seconds.json").read_text())
    assert list(seconds) == list(make_tiny.STAGES) and min(seconds.values()) > 0
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(path.stat().st_size for path in (tmp_path / "model").iterdir()) < 10e6
    write_video(sample_video(1, 0, 32), tmp_path / "a.mp4")
    model = vxlpro_jax.load(tmp_path / "model")
    assert isinstance(model.ask(model.index(tmp_path / "a.mp4"), "What shape is on the card?").text, str)
    # Again: every stage is done, and the model comes out the same.
    assert make_tiny.main(["--workdir", str(tmp_path / "work"), "--out", str(tmp_path / "again")]) == 0
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("model", "again"))
    assert one == other
    assert "answers_settled" in capsys.readouterr().out


def test_an_existing_folder_is_not_overwritten(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        make_tiny.main(["--out", str(tmp_path)])
    assert stopped.value.code == 2 and "exists" in capsys.readouterr().err
