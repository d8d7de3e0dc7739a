"""The stages on clips: the same losses on one device and on four, the full size compiles, and a run from files to a
model that answers."""

import dataclasses
import importlib
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vxlpro_jax
from launch import clip_stage, synthesize, train_stage
from launch.starting_point import MODEL_FOLDER
from tests.complete_bank import complete_bank
from vxlpro_jax.config import build, check
from vxlpro_jax.data.synthetic_rows import BankIndex
from vxlpro_jax.data.tokenizer import TextTokenizer, build_tiny_tokenizer
from vxlpro_jax.models.presets import PRESETS
from vxlpro_jax.models.video_xl_pro import abstract_params
from vxlpro_jax.parallel.axes import FSDP_TENSOR
from vxlpro_jax.parallel.mesh import make_mesh
from vxlpro_jax.parallel.sharding import place_batch
from vxlpro_jax.train.answer_feed import AnswerFeed, RowMix
from vxlpro_jax.train.loop import StoppedError
from vxlpro_jax.train.optimizers import make_optimizer
from vxlpro_jax.train.run_log import read_log
from vxlpro_jax.train.stages import stage_loss
from vxlpro_jax.train.state import new_state
from vxlpro_jax.train.step import make_train_step
from vxlpro_jax.types import ClipBatch, RowBatch, Selection

TINY = PRESETS["tiny"]
SMALL = replace(TINY, vision=replace(TINY.vision, num_layers=1), llm=replace(TINY.llm, num_layers=1))


def config_of(name, folder="configs.tiny", **stage):
    values = importlib.import_module(f"{folder}.{name}").get_config()
    values.unlock()
    values.stage.update(stage)
    return values


def clip_batch(size, groups):
    labels = complete_bank()
    features = np.zeros((len(labels), 4, 4, SMALL.vision.dim), np.float16)
    feed = AnswerFeed(features[:, None], BankIndex(labels), TextTokenizer(build_tiny_tokenizer()), SMALL)
    mix = RowMix(groups, size, 512, 1.0, 0.0, when_share=0.3, guess_share=0.0, settled_guess=False)
    batch = feed.draw(np.random.default_rng(0), mix)
    frames = np.random.default_rng(1).integers(0, 256, (size, groups * 4, 56, 56, 3), np.uint8)
    told, ids = np.ones(size, bool), np.arange(size, dtype=np.int32)
    return ClipBatch(frames, batch.rows, batch.selection, batch.relevant, told, told, ids, batch.width)


def losses_of(mesh_shape, tmp_path, monkeypatch):
    config = build(config_of("sft", trainable=("vision_tower", "dts", "projector", "selector", "llm")))
    parts = dict.fromkeys(("vision_tower", "dts", "projector", "selector", "llm"), "fresh")
    config = replace(config, parts=parts, mesh=mesh_shape, init_from="")
    mesh = make_mesh(mesh_shape) if mesh_shape else None
    model, state, trainable = clip_stage.first_state(config, SMALL, mesh, 100, tmp_path)
    layout = clip_stage.state_layout(state, SMALL, mesh)
    optimizer = make_optimizer(replace(config.optimizer, warmup_steps=1), 100)
    step = make_train_step(stage_loss(config.stage, model), trainable, optimizer, (), layout)
    batch, seen = place_batch(clip_batch(4, 2), mesh, FSDP_TENSOR), []
    for _ in range(3):
        state, metrics = step(state, [batch])
        seen.append([float(metrics[name]) for name in ("loss", "gradient_norm", "ranking_loss")])
    return seen, state, batch


@pytest.mark.slow
def test_losses_are_the_same_on_one_device_and_on_four(tmp_path, monkeypatch):
    one, _, _ = losses_of({}, tmp_path, monkeypatch)
    mesh = {"data": 2, "tensor": 2}
    with jax.set_mesh(make_mesh(mesh)):
        four, state, batch = losses_of(mesh, tmp_path, monkeypatch)
    np.testing.assert_allclose(four, one, rtol=2e-4)
    assert one[2][0] < one[0][0]
    kernel = state.params["llm"]["layers"]["mlp"]["up_proj"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    moment = state.opt_state[1][0].mu["llm/layers/mlp/up_proj/kernel"]
    assert moment.sharding.is_equivalent_to(kernel.sharding, kernel.ndim)
    assert batch.frames.addressable_shards[0].data.shape[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["align", "sft"])
def test_the_first_step_of_the_full_size_compiles_at_reduced_depth(name):
    """Widths, vocabulary, frames and rows of the 3B model, two layers of each kind; nothing is computed."""
    config = build(config_of(name, "configs"))
    sizes = clip_stage.training_sizes(config, full_size_with_layers(config, 2))
    bucket = config.data["train"].buckets["short"]
    batch = abstract_clips(sizes, bucket.num_groups, bucket.text_len, bucket.batch_size)
    model = clip_stage.stage_model(config, sizes, sharded=False)
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), abstract_params(sizes))
    optimizer = make_optimizer(config.optimizer, 100)
    trainable = clip_stage.trained_parts(config, params)
    state = jax.eval_shape(lambda p: new_state(p, trainable, optimizer), params)
    step = make_train_step(stage_loss(config.stage, model), trainable, optimizer)
    compiled = jax.jit(lambda state, batch: step(state, [batch])).lower(state, batch).compile()
    out = jax.tree.map(lambda leaf: leaf.shape, compiled.out_info[0])
    assert out == jax.tree.map(lambda leaf: leaf.shape, state)
    assert compiled.memory_analysis().temp_size_in_bytes < 60e9


def full_size_with_layers(config, layers):
    from vxlpro_jax.config import model_config

    sizes = model_config(config)
    vision, llm = replace(sizes.vision, num_layers=layers), replace(sizes.llm, num_layers=layers)
    return replace(sizes, vision=vision, llm=llm)


def abstract_clips(sizes, groups, text_len, size):
    words, per_group = sizes.stamps.num_tokens, sizes.tokens_per_group
    rows_len = text_len + groups * (words + per_group)

    def array(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype)

    side = sizes.vision.image_size
    rows = RowBatch(
        text_ids=array(jnp.int32, size, text_len),
        query_mask=array(bool, size, text_len),
        stamp_ids=array(jnp.int32, size, groups, words),
        stamp_mask=array(bool, size, groups, words),
        video_of_group=array(jnp.int32, size, groups),
        row_source=array(jnp.int32, size, rows_len),
        labels=array(jnp.int32, size, text_len),
    )
    return ClipBatch(
        frames=array(jnp.uint8, size, groups * sizes.dts.frames_per_group, side, side, 3),
        rows=rows,
        selection=Selection(array(jnp.int32, size, 1), array(jnp.int32, size)),
        relevant=array(bool, size, groups),
        has_relevant=array(bool, size),
        valid=array(bool, size),
        sample_ids=array(jnp.int32, size),
        width=array(bool, rows_len),
    )


@pytest.mark.parametrize("rule", ["keep_rate", "budget"])
def test_tokens_are_those_that_the_selector_leaves(rule):
    """The first row keeps half its visual tokens, or has so much room for its video; the second keeps all."""
    batch = clip_batch(2, 4)
    visual, stamps = 4 * SMALL.tokens_per_group, int(batch.rows.stamp_mask[0].sum())
    num_keep, budget = np.array([[visual // 2], [visual]]), np.array([visual // 2, 9 * visual])
    batch = batch._replace(selection=Selection(num_keep, budget))
    sizes = replace(SMALL, selector=replace(SMALL.selector, selection=rule))
    dropped = visual // 2 + (stamps if rule == "budget" else 0)
    assert clip_stage.tokens_read(batch, sizes) == (batch.rows.row_source >= 0).sum() - dropped
    assert clip_stage.tokens_read(batch._replace(width=np.zeros(10, bool)), sizes) == 20


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name, seed in (("train", 51), ("heldout", 52)):
        args = ["--seed", str(seed), "--num", "2", "--length-s", "32", "--out", str(folder / name)]
        # No pictures: a shape of batches less to compile.
        assert synthesize.main([*args, "--llava", str(folder / name / f"{name}.jsonl")]) == 0
    return folder


def small_run(name, clips, **changes):
    """A stage's own configuration with the generated clips, few steps, and the embedded model to start from."""
    values = config_of(name, num_steps=4, micro_batches=2)
    values.init_from = "vxlpro_jax/assets/tiny"
    values.loop.update({"log_every": 1, "eval_every": 4, "save_every": 2})
    values.optimizer.warmup_steps = 1
    values.heldout.update({"num_batches": 1, "num_answers": 2, "max_frames": 16, "max_new_tokens": 4})
    for kind in ("train", "heldout"):
        values.data[kind].mixture = str(clips / kind / f"{kind}.jsonl")
        values.data[kind].workers = 0
        values.data[kind].buckets.pictures.batch_size = 2
        values.data[kind].buckets.videos.update({"batch_size": 2, "num_groups": 4})
    for path, value in changes.items():
        values.update_from_flattened_dict({path.replace("__", "."): value})
    return build(values)


@pytest.mark.slow
def test_align_then_sft_from_files_to_a_model_that_answers(clips, tmp_path, capfd):
    config = small_run("align", clips)
    train_stage.run(config, tmp_path / "align")
    origins = {line["part"]: line for line in json.loads((tmp_path / "align" / "provenance.json").read_text())}
    assert origins["projector"]["kind"] == "fresh" and origins["projector"]["trained"] == 1
    assert origins["llm"]["kind"] == "checkpoint" and origins["llm"]["trained"] == 0
    told = capfd.readouterr()
    assert "FRESH, drawn from config.seed" in told.out + told.err and "| truth: " in told.out + told.err
    lines = read_log(tmp_path / "align")
    line = [line for line in lines if "loss" in line][-1]
    rates = ("frames_per_s", "tokens_per_s", "tflops_per_s", "wait_share", "rate", "gradient_norm/projector")
    for name in (*rates, "rounds_dropped"):
        assert line[name] >= 0, name
    assert list(line).count("gradient_norm/llm") == 0
    judged = [line for line in lines if "eval_token_loss" in line][-1]
    assert 0 <= judged["eval_right_answers"] <= 1 and judged["eval_answers"].count("| answer: ") == 2

    config = small_run("sft", clips, init_from=str(tmp_path / "align"), stage__micro_batches=1, stage__num_steps=2)
    train_stage.run(config, tmp_path / "sft")
    origins = json.loads((tmp_path / "sft" / "provenance.json").read_text())
    assert {line["kind"] for line in origins} == {"stage"} and {line["trained"] for line in origins} == {1.0}
    model = vxlpro_jax.load(tmp_path / "sft" / "export")
    video = next((clips / "heldout").glob("*.mp4"))
    assert isinstance(model.ask(model.index(video, max_frames=16), "What shape is on the card?").text, str)
    train_stage.run(config, tmp_path / "sft")  # done: returns at once
    assert (tmp_path / "sft" / MODEL_FOLDER).exists()


@pytest.mark.slow
def test_lora_trains_its_additions_and_leaves_a_plain_model(clips, tmp_path):
    changes = {"stage__trainable": ("projector", "llm"), "stage__micro_batches": 1, "heldout__num_answers": 0}
    config = small_run("sft", clips, lora__rank=2, **changes)
    train_stage.run(config, tmp_path / "sft")
    state = read_log(tmp_path / "sft")
    assert all(line["skipped"] == 0 for line in state if "loss" in line)
    sizes = check(config)
    from launch.train_stage import stage_params

    before = stage_params_of_asset(sizes)
    after = stage_params(tmp_path / "sft", sizes)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    kernels = [tree["llm"]["layers"]["self_attn"]["q_proj"]["kernel"] for tree in (before, after)]
    assert not np.allclose(*kernels, atol=1e-7)
    mlps = [tree["llm"]["layers"]["mlp"]["up_proj"]["kernel"] for tree in (before, after)]
    np.testing.assert_array_equal(*mlps)


def stage_params_of_asset(sizes):
    from vxlpro_jax.convert import load_params

    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), load_params("vxlpro_jax/assets/tiny")[1])


@pytest.mark.slow
def test_a_stopped_run_goes_on_without_its_sources(clips, tmp_path, monkeypatch):
    """What was read once is in the checkpoint: a resumed run does not read the weights that it started from."""
    whole = small_run("align", clips, heldout__num_answers=0, stage__micro_batches=1)
    train_stage.run(whole, tmp_path / "whole")
    evaluations = []

    def stopping(params, step):
        evaluations.append(step)
        raise StoppedError("now")

    with monkeypatch.context() as patch:
        patch.setattr(clip_stage, "make_evaluation", lambda *args: stopping)
        short = dataclasses.replace(whole, loop=dataclasses.replace(whole.loop, eval_every=3, best_metric=""))
        with pytest.raises(StoppedError):
            train_stage.run(short, tmp_path / "cut")
    assert evaluations == [3]
    with monkeypatch.context() as patch:
        patch.setattr(clip_stage, "starting_params", lambda *args: pytest.fail("weights were read again"))
        train_stage.run(whole, tmp_path / "cut")

    def losses(name):
        return [(line["step"], line["loss"]) for line in read_log(tmp_path / name) if "loss" in line]

    assert losses("cut") == losses("whole") and len(losses("cut")) == 4
