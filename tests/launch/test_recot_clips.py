"""Clips from a mixture: the same batches from any worker, what cannot be read replaced, and a run that is fed so."""

import json
import shutil
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import clips
from configs.tiny import recot
from launch import recot_run
from launch.recot_clips import FedClips
from tests.data.feed_setup import SHAPE
from vxlpro_jax.config import build
from vxlpro_jax.data.pipeline import open_feed
from vxlpro_jax.data.records import read_records
from vxlpro_jax.train.recot_stage import ReCoTRunConfig


@pytest.fixture(scope="module")
def mixture(small_set, tmp_path_factory):
    """The small set with one video cut in the middle: it opens, but cannot be read to its end."""
    folder = tmp_path_factory.mktemp("mixture") / "set"
    shutil.copytree(small_set.parent, folder)
    content = (folder / "4.mp4").read_bytes()
    half = len(content) // 2
    (folder / "4.mp4").write_bytes(content[:half] + bytes(len(content) // 4) + content[half + len(content) // 4 :])
    return folder / "train.jsonl"


class Fed(NamedTuple):
    """Stands for a feed: the same batch at every step."""

    plan: Any
    batch: Any

    def __call__(self, step: int) -> Any:
        return self.batch


def config_of(mixture, workers=0, **changes):
    config = recot.get_config()
    with config.unlocked():
        config.data.source, config.data.keep = "mixture", "frames"
        shared = {"prompt": "none", "sampling__clip_frames": 4, "workers": workers, "max_broken_share": 0.5}
        feed = clips.feed(str(mixture), {"clips": (1, 0, 8)}, **shared)
        config.feed = ConfigDict({"train": feed, "heldout": feed})
        config.num_steps, config.optimizer.warmup_steps = 3, 1
        config.loop.log_every = config.loop.eval_every = config.loop.save_every = 3
        for key, value in changes.items():
            config.update_from_flattened_dict({key.replace("__", "."): value})
    return build(config, ReCoTRunConfig)


def batches_of(mixture, folder, workers, steps):
    config = config_of(mixture, workers)
    with open_feed(config.feed["train"], SHAPE, None, config.seed, folder) as feed:
        make = FedClips(config, None, None, feed, feed, folder / "sample.npy").batches()
        return [make(step) for step in steps], feed.num_broken


def test_batches_hold_readable_clips_of_both_kinds_and_follow_from_the_step(mixture, tmp_path):
    steps = range(6)
    made, num_broken = batches_of(mixture, tmp_path / "a", 0, steps)
    again, _ = batches_of(mixture, tmp_path / "b", 1, reversed(steps))
    for one, other in zip(made, reversed(again), strict=True):
        for mine, theirs in zip(one, other, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert num_broken > 0 and all(batch.clips.any((1, 2, 3, 4)).all() for batch in made)
    assert made[0].clips.shape == (8, 4, 56, 56, 3) and made[0].clips.dtype == np.uint8
    records = list(read_records(mixture, mixture.parent))
    seen = np.concatenate([batch.is_image for batch in made])
    assert seen.any() and not seen.all()
    for batch in made:
        for clip, is_image, number in zip(batch.clips, batch.is_image, batch.sample_ids, strict=True):
            assert is_image == (records[number].media_kind == "image")
            assert (clip == clip[:1]).all() or not is_image


def test_another_clip_stands_where_none_can_be_read(mixture):
    """The feed leaves a row empty when its substitutes are broken too."""
    frames = np.arange(1, 9, dtype=np.uint8)[:, None, None, None, None]
    batch = SimpleNamespace(frames=frames, valid=np.arange(8) % 4 > 0, sample_ids=np.arange(8))
    sizes = SimpleNamespace(is_video=np.arange(8) != 1)
    made = FedClips(config_of(mixture), None, None, Fed(SimpleNamespace(sizes=sizes), batch), None, None).batches()(0)
    assert made.clips.ravel().tolist() == [2, 2, 3, 4, 2, 6, 7, 8]
    assert made.sample_ids.tolist() == [1, 1, 2, 3, 1, 5, 6, 7]
    assert made.is_image.tolist() == [True, True, False, False, True, False, False, False]


def test_a_run_that_goes_on_does_not_read_its_sample_again(tmp_path):
    """Else the feed begins anew, and forgets what was broken in the steps that are not made again."""
    np.save(tmp_path / "sample.npy", np.arange(3))
    found = FedClips(None, None, None, feed=None, heldout_feed=None, kept_sample=tmp_path / "sample.npy").sample()
    np.testing.assert_array_equal(found, np.arange(3))


def test_a_feed_that_does_not_fit_the_clips_is_refused(mixture):
    for changes, message in (
        ({"data__keep": "features"}, "config.data.keep='frames'"),
        ({"data__clip_frames": 8}, "config.feed.*: prompt='none' and sampling.clip_frames=8"),
        ({"mesh": {"data": 16, "tensor": 1}}, "batches of 8, which mesh.data=16 does not divide"),
    ):
        with pytest.raises(ValueError, match=message):
            config_of(mixture, **changes)


@pytest.mark.slow
def test_the_stage_learns_from_a_mixture(mixture, tmp_path):
    found = recot_run.run(config_of(mixture, workers=1), tmp_path)
    assert found["error"]["whole"] < found["baselines"]["mean_of_frames"]
    assert found["heldout_clips"] > 0 and found["broken"] >= 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)
    assert np.load(tmp_path / "data" / "sample.npy").ndim == 5
    assert (tmp_path / "data" / "train" / "broken.jsonl").exists() and (tmp_path / "model").exists()
