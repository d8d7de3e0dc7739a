"""A DTS on somebody's own videos, from a folder to a model that loads; with few steps."""

import json
from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vxlpro_jax
from configs import recot
from configs.tiny import answers_short, recot_videos
from launch import recot_run
from launch.starting_point import PROVENANCE_FILE, starting_params
from vxlpro_jax.config import build, check
from vxlpro_jax.data.clip_shards import ClipShards
from vxlpro_jax.data.synthetic import sample_video
from vxlpro_jax.data.synthetic_files import write_video
from vxlpro_jax.loading import EMBEDDED
from vxlpro_jax.models.presets import PRESETS
from vxlpro_jax.models.recot import count_params, init_recot
from vxlpro_jax.models.siglip import SiglipTower
from vxlpro_jax.train.recot_stage import ReCoTBatch, ReCoTRunConfig, ReCoTStage


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for index in range(4):
        write_video(sample_video(1, index, 32), folder / f"{index}.mp4", size=(56, 56))
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def config_of(videos, **changes):
    config = recot_videos.get_config()
    config.unlock()
    config.data.folder = str(videos)
    config.data.heldout_every = 4
    config.num_steps, config.batch_size, config.optimizer.warmup_steps = 3, 4, 1
    config.loop.log_every = config.loop.eval_every = config.loop.save_every = 3
    for key, value in changes.items():
        config.update_from_flattened_dict({key.replace("__", "."): value})
    return build(config, ReCoTRunConfig)


def next_stage(folder):
    """A stage that takes its DTS from a run, and everything else from the embedded model."""
    config = answers_short.get_config()
    with config.unlocked():
        config.init_from, config.parts = str(EMBEDDED), {"dts": str(folder)}
    return config


@pytest.mark.slow
def test_a_folder_becomes_a_dts_that_loads_and_kept_features_change_nothing(videos, tmp_path):
    losses = {}
    for keep in ("features", "frames"):
        folder = tmp_path / keep
        found = recot_run.run(config_of(videos, data__keep=keep), folder)
        assert list(found["broken"]) == ["broken.mp4"] and found["heldout_clips"] == 8
        assert found["error"]["whole"] < found["baselines"]["mean_of_frames"]
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses[keep] = [line["loss"] for line in lines if "loss" in line]
        assert ClipShards(folder / "clips", 4).take([0]).dtype == (np.float16 if keep == "features" else np.uint8)
    np.testing.assert_allclose(losses["features"], losses["frames"], rtol=1e-4)
    model = vxlpro_jax.load(tmp_path / "features" / "export")
    assert model.config.dts.relative_term == "textbook"
    assert len(model.index(videos / "0.mp4").tokens) == 8
    stage = build(next_stage(tmp_path / "features"))
    assert starting_params(stage, check(stage))[1][1].source == str(tmp_path / "features")
    origins = json.loads((folder / PROVENANCE_FILE).read_text())
    told = {line["part"]: (line["kind"], line["trained"]) for line in origins}
    assert told["vision_tower"] == ("checkpoint", 0) and told["dts"] == told["decoder"] == ("components", 1)
    assert told["sgm"] == ("fresh", 1)
    # Again: it is done, and nothing is written anew.
    before = (tmp_path / "features" / "summary.json").stat().st_mtime_ns
    recot_run.run(config_of(videos), tmp_path / "features")
    assert (tmp_path / "features" / "summary.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="started with another configuration: batch_size: 4 -> 5"):
        recot_run.run(config_of(videos, batch_size=5), tmp_path / "features")


@pytest.mark.slow
def test_a_mesh_changes_nothing(videos, tmp_path):
    """Clips over two devices, wide axes over two: the losses of one device, and the share of the peak is told."""
    lines = {}
    for name, mesh in (("one", {}), ("four", {"data": 2, "tensor": 2})):
        found = recot_run.run(config_of(videos, mesh=mesh, loop__log_every=1), tmp_path / name)
        told = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        lines[name] = [line for line in told if "loss" in line] + [found["error"]]
    for one, four in zip(lines["one"], lines["four"], strict=True):
        for key in {"loss", "gradient_norm", "whole", "hidden"} & one.keys():
            assert one[key] == pytest.approx(four[key], rel=1e-3)
    assert lines["four"][0]["tflops_per_s"] > 0 and lines["four"][0]["frames_per_s"] > 0
    with pytest.raises(ValueError, match="a data axis that divides the batch"):
        config_of(videos, mesh={"data": 3, "tensor": 1})


@pytest.mark.slow
def test_what_cannot_be_held_out_or_gone_on_from_is_told(videos, tmp_path):
    with pytest.raises(ValueError, match="give no held-out video clip.*heldout_every"):
        recot_run.run(config_of(videos, data__heldout_every=5), tmp_path / "a")
    with pytest.raises(ValueError, match="config.start='model'.*relative_term"):
        recot_run.run(config_of(videos, start="model"), tmp_path / "b")


def test_what_cannot_work_is_told_before_anything_is_loaded(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(recot_run, "load", None)
    with pytest.raises(ValueError, match="config.data.folder='': the folder of your videos"):
        recot_run.run(config_of(""), tmp_path / "a")
    with pytest.raises(ValueError, match="5 videos and pictures, of which every 6th is held out"):
        recot_run.run(config_of(videos, data__heldout_every=6), tmp_path / "b")
    with pytest.raises(ValueError, match="config.batch_size=0: at least 1"):
        config_of(videos, batch_size=0)
    with pytest.raises(ValueError, match="config.loop.log_every=0: at least 1"):
        config_of(videos, loop__log_every=0)
    with pytest.raises(ValueError, match="config.optimizer.peak_rate=0.0: a number above 0"):
        config_of(videos, optimizer__peak_rate=0.0)
    with pytest.raises(ValueError, match="rates has 'llm': parts of dts, sgm, decoder"):
        config_of(videos, optimizer__rates={"llm": 1.0})


@pytest.mark.slow
def test_the_first_step_of_the_full_size_compiles():
    """The released widths and pictures of 384 x 384, two layers of the tower; nothing is computed."""
    config = build(recot.get_config(), ReCoTRunConfig)
    sizes = PRESETS["video_xl_pro_3b"]
    vision = replace(sizes.vision, num_layers=2)
    stage = ReCoTStage.of(config, vision, sizes.dts)
    key, side = jax.random.key(0), vision.image_size
    pixels = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    tower = jax.eval_shape(SiglipTower(vision).init, key, pixels)["params"]
    tower = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(config.dtype)), tower)
    params = jax.eval_shape(lambda: init_recot(config.recot, sizes.dts, key))
    state = jax.eval_shape(partial(recot_run.begin, config), nn.unbox({**params, "vision_tower": tower}))
    shapes = ((2, 4, side, side, 3), np.uint8), ((2,), bool), ((2,), bool), ((2,), np.uint32), ((2,), np.int32)
    batch = ReCoTBatch(*(jax.ShapeDtypeStruct(*shape) for shape in shapes))
    step = recot_run.train_step(config, stage)
    compiled = jax.jit(lambda state, batch: step(state, [batch])).lower(state, batch).compile()
    assert compiled.memory_analysis().argument_size_in_bytes > 4 * count_params(params)
