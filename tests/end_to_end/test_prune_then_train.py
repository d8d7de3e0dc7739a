"""From a folder of videos to a model fine-tuned on the informative half of them: prune, feed, train, ask."""

import json
from pathlib import Path

import numpy as np
import pytest

import vxlpro_jax
from configs import prune as prune_config
from configs.tiny import sft
from launch import train_stage
from launch.prune_run import prune, read_config
from tests.data.feed_setup import SHAPE, data_config, tokenize
from vxlpro_jax.config import build
from vxlpro_jax.data.pipeline import open_feed
from vxlpro_jax.data.records import Record, write_records
from vxlpro_jax.data.synthetic_pool import write_pool
from vxlpro_jax.loading import EMBEDDED
from vxlpro_jax.train.run_log import read_log

WORLDS = {"busy": 3, "still": 2, "slow": 1}


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pruning run, with the embedded tower, over six videos with six questions each."""
    folder = tmp_path_factory.mktemp("data")
    raw = [record for records in write_pool(folder / "videos", 3, WORLDS) for record in records]
    write_records(folder / "train.json", raw)
    config = prune_config.get_config()
    config.mixture, config.root, config.workers = str(folder / "train.json"), str(folder / "videos"), 0
    prune(read_config(config), folder / "pruned")
    return folder / "pruned"


def change(frames: np.ndarray) -> float:
    """Mean difference, in grey levels, from the first to the last frame of each clip uint8 [B, T, S, S, 3]."""
    return float(np.abs(frames[:, -1].astype(float) - frames[:, 0]).mean((1, 2, 3)).min())


def test_the_feed_holds_what_pruning_kept(pruned: Path, tmp_path: Path) -> None:
    mixture = pruned / "kept" / "mixture.yaml"
    with open_feed(data_config(mixture), SHAPE, tokenize, 5, tmp_path) as feed:
        records = [record for _, record in feed.mixture.records() if isinstance(record, Record)]
        assert {Path(record.media[0]).stem for record in records} == {"busy_00000", "busy_00001", "busy_00002"}
        assert len(records) == 18 and json.loads((pruned / "prune.json").read_text())["num_videos"] == 6
        batches = [feed(step) for step in range(feed.num_steps(1))]
    assert {int(number) for batch in batches for number in batch.sample_ids} <= set(range(18))
    assert all(batch.valid.all() and change(batch.frames) > 10 for batch in batches)
    everything = pruned.parent / "train.json"
    with open_feed(
        data_config(everything, root=str(pruned.parent / "videos")), SHAPE, tokenize, 5, tmp_path / "b"
    ) as feed:
        unpruned = [change(feed(step).frames) for step in range(feed.num_steps(1))]
    assert min(unpruned) < 5  # without pruning, videos in which nothing happens are trained on


@pytest.mark.slow
def test_fine_tuning_runs_on_what_pruning_kept(pruned: Path, tmp_path: Path) -> None:
    """The tiny sft stage as configured, but for its length, on kept/mixture.yaml; the result answers questions."""
    config = sft.get_config().unlock()
    config.init_from = str(EMBEDDED)
    config.stage.num_steps, config.stage.micro_batches, config.optimizer.warmup_steps = 3, 1, 1
    config.optimizer.peak_rate = 1e-4
    config.loop.update({"log_every": 1, "eval_every": 3, "save_every": 3})
    config.heldout.update({"num_batches": 1, "num_answers": 0})
    for feed in config.data.values():
        feed.mixture, feed.workers = str(pruned / "kept" / "mixture.yaml"), 0
        feed.buckets.videos.batch_size = 4
    train_stage.run(build(config), tmp_path / "sft")
    losses = [line["loss"] for line in read_log(tmp_path / "sft") if "loss" in line]
    assert len(losses) == 3 and np.all(np.isfinite(losses))
    assert (tmp_path / "sft" / "data" / "train" / "broken.jsonl").read_text() == ""
    model = vxlpro_jax.load(tmp_path / "sft" / "export")
    video = next((pruned.parent / "videos").glob("busy*.mp4"))
    assert isinstance(model.ask(model.index(video, max_frames=16), "What shape is on the card?").text, str)
