"""A stage that is done is not done again, however its length is given."""

from configs import sft
from launch import train_stage
from launch.starting_point import MODEL_FOLDER
from vxlpro_jax.config import build


def test_whole_epochs_that_are_done_are_not_done_again(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(train_stage, "check", lambda config: None)
    monkeypatch.setattr(train_stage, "check_sources", lambda config, sizes: None)
    monkeypatch.setattr(train_stage.clip_stage, "run", lambda config, sizes, workdir: started.append(workdir))
    config = build(sft.get_config())
    assert config.stage.num_steps == 0
    train_stage.run(config, tmp_path)
    assert len(started) == 1
    (tmp_path / MODEL_FOLDER).mkdir()
    train_stage.run(config, tmp_path)
    assert len(started) == 1
    train_stage.run(config, tmp_path, allow_changes=True)  # the data may make other epochs now
    assert len(started) == 2
