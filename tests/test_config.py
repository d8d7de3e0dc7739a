"""The door of configuration: every file in configs/ passes it, and a slip of the pen does not."""

import dataclasses
import importlib
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from vxlpro_jax.config import TrainConfig, build, check, model_config
from vxlpro_jax.models.presets import PRESETS
from vxlpro_jax.models.recot import decoder_dim, init_recot
from vxlpro_jax.train.optimizers import rate_schedule
from vxlpro_jax.train.recot_stage import ReCoTBatch, ReCoTRunConfig, ReCoTStage, recot_loss
from vxlpro_jax.types import num_kept_in_training

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
STAGES = sorted(path.stem for path in (CONFIGS / "tiny").glob("*.py") if path.stem not in ("eval", "__init__"))
FULL_SIZE = ("align", "sft")
RECOT = [name for name in STAGES if name.startswith("recot") and name != "recot_report"]
STAGES = [name for name in STAGES if not name.startswith("recot")]


def values(name="tower", folder="configs.tiny"):
    config = importlib.import_module(f"{folder}.{name}").get_config()
    config.unlock()
    return config


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_builds(name):
    config = build(values(name))
    assert isinstance(config, TrainConfig) and dataclasses.is_dataclass(config.stage)
    assert config.preset in PRESETS and config.stage.num_steps > 0 and config.stage.trainable
    assert (config.stage.loss in ("words", "answers")) == bool(config.rows)
    assert (config.stage.loss == "clips") == bool(config.data)
    rate_schedule(config.optimizer, config.stage.num_steps)
    if not config.data:  # the others' files are not there
        check(config)
    for mix in config.rows.values():
        assert mix.length <= PRESETS[config.preset].max_context_len


@pytest.mark.parametrize("folder", ["configs.tiny", "configs"])
def test_fine_tuning_drops_what_the_paper_says(folder):
    """5 to 30 % of a video of 16 groups, whatever the tokens of a group; rounding takes a little more."""
    config = build(values("sft", folder))
    sizes, keep = model_config(config), config.data["train"].keep
    tokens = 16 * sizes.tokens_per_group
    rates = np.linspace(keep.low, keep.high, 101)
    kept = [num_kept_in_training(tokens, rate, sizes.selector.keep_multiple) / tokens for rate in rates]
    assert 0.68 <= min(kept) <= 0.7 and 0.93 <= max(kept) <= 0.95 and len(set(kept)) > 15


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_full_size_stages_build_and_state_the_papers_batch(name, tmp_path, monkeypatch):
    config = build(values(name, "configs"))
    with pytest.raises(ValueError, match=r"config.data.\w+.mixture='.*there is no such file"):
        check(config)
    monkeypatch.chdir(tmp_path)
    for path in [Path(data.mixture) for data in config.data.values()] + [Path("runs/base/tokenizer.json")]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    sizes = check(config)
    assert sizes.llm.dim == 2048 and sizes.dts.frame_packing == "paper"
    for data in config.data.values():
        for bucket in data.buckets.values():
            assert bucket.batch_size * config.stage.micro_batches == 64
            rows = bucket.text_len + bucket.num_groups * (sizes.tokens_per_group + sizes.stamps.num_tokens)
            assert rows <= sizes.max_context_len
    assert config.optimizer.peak_rate == {"align": 5e-4, "sft": 1e-5}[name]


@pytest.mark.parametrize("name", RECOT)
def test_every_reconstructive_stage_builds(name):
    config = build(values(name), ReCoTRunConfig)
    decoder_dim(config.recot.dts_of(PRESETS["tiny"].dts))  # raises unless it has half the parameters
    rate_schedule(config.optimizer, config.num_steps)
    assert config.num_steps > 0


def test_the_reconstructive_stage_builds_at_full_size():
    """All shapes of the released tower's DTS, masker and decoder, and a first loss, without a weight."""
    config = build(values("recot", "configs"), ReCoTRunConfig)
    sizes = PRESETS["video_xl_pro_3b"]
    stage = ReCoTStage.of(config, sizes.vision, sizes.dts)
    params = nn.unbox(jax.eval_shape(lambda: init_recot(config.recot, sizes.dts, jax.random.key(0))))
    clips = jax.ShapeDtypeStruct((2, config.data.clip_frames, 24, 24, 1152), config.data.feature_dtype)
    flags, draw, ids = (jax.ShapeDtypeStruct((2,), dtype) for dtype in (bool, "uint32", int))
    terms = jax.eval_shape(recot_loss(stage), params, ReCoTBatch(clips, flags, flags, draw, ids)).terms
    assert terms["reconstruction"].total.shape == ()


@pytest.mark.parametrize("name", STAGES + RECOT)
def test_the_first_lines_of_a_config_are_the_command_that_runs_it(name):
    text = (CONFIGS / "tiny" / f"{name}.py").read_text()
    assert f"python -m launch.train --config=configs/tiny/{name}.py" in text.split('"""')[1]


@pytest.mark.parametrize("name", FULL_SIZE)
def test_so_it_is_at_full_size(name):
    text = (CONFIGS / f"{name}.py").read_text()
    assert f"python -m launch.train --config=configs/{name}.py" in text.split('"""')[1]


def test_an_unknown_key_names_its_neighbour():
    config = values()
    config.optimizer.peak_rat = 1.0
    with pytest.raises(ValueError, match=r"config.optimizer.peak_rat is no .*did you mean 'peak_rate'"):
        build(config)


def test_a_missing_key_is_named():
    config = values()
    del config.loop.prefetch
    with pytest.raises(ValueError, match="config.loop lacks prefetch"):
        build(config)


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [("seed", 1.5, "int"), ("stage", 3, "block"), ("preset", 2, "str"), ("init_from", None, "str")],
)
def test_a_value_of_the_wrong_type_is_named(key, value, accepted):
    config = values()
    with config.ignore_type():
        config[key] = value
    with pytest.raises(ValueError, match=rf"config.{key}=.*{accepted}.* accepted"):
        build(config)


def test_an_unknown_choice_is_named():
    config = values()
    config.stage.loss = "dreams"
    with pytest.raises(ValueError, match=r"config.stage.loss='dreams': one of \('frames'"):
        build(config)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("preset", "tyni", "config.preset='tyni': one of .*tiny"),
        ("stage.trainable", (), "at least one part"),
        ("stage.trainable", ("vision_towr", "heads"), "'vision_towr' is no part.*did you mean 'vision_tower'"),
        ("stage.frozen", ("sgm",), "config.stage.frozen.*'sgm' is no part"),
        ("optimizer.rates", {"lm": 1e-5}, "config.optimizer.rates.*'lm' is no part.*did you mean 'llm'"),
        ("parts", {"tower": "x"}, "config.parts.tower: vision_tower"),
        ("stage.micro_batches", 0, "config.stage.micro_batches=0: at least 1"),
        ("stage.num_steps", 0, "config.stage.num_steps=0.*draws without end"),
        ("optimizer.warmup_share", 0.5, "warmup_steps=100 and warmup_share=0.5: give one"),
        ("switches", {"dts": {"packing": "paper"}}, "dts.packing"),
        ("mesh", {"data": 0}, "config.mesh.data=0: at least 1"),
        ("mesh", {"date": 4}, "the axes data and tensor"),
        ("mesh", {"data": 4, "tensor": 1}, "runs on one device"),
        ("stage.loss", "clips", "config.data.train is not there"),
        ("stage.epochs", 0, "config.stage.epochs=0: at least 1"),
        ("loop.prefetch", -1, "config.loop.prefetch=-1: at least 0"),
        ("loop.keep_best", -1, "config.loop.keep_best=-1: at least 0"),
        ("heldout.max_new_tokens", 0, "config.heldout.max_new_tokens=0: at least 1"),
        ("vision.workers", -1, "config.vision.workers=-1: at least 0"),
        ("optimizer.clip_norm", 0.0, "config.optimizer.clip_norm=0.0: a number above 0"),
        ("optimizer.warmup_share", 1.0, "config.optimizer.warmup_share=1.0: from 0 to below 1"),
    ],
)
def test_combinations_that_cannot_work_are_told(key, value, told):
    config = values()
    *blocks, name = key.split(".")
    block = config
    for part in blocks:
        block = block[part]
    with block.ignore_type():
        block[name] = ConfigDict(value) if isinstance(value, dict) else value
    with pytest.raises(ValueError, match=told):
        check(build(config))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lora.rank", 4),
        ("export", True),
        ("tokenizer", "runs/base"),
        ("stage.epochs", 2),
        ("stage.z_weight", 1e-4),
        ("stage.dtype", "bfloat16"),
        ("stage.frozen_dtype", "bfloat16"),
        ("stage.remat", True),
        ("stage.encode_groups", 4),
        ("stage.loss_chunk", 512),
        ("stage.selection", "keep_rate"),
        ("stage.attention", "xla"),
    ],
)
def test_a_key_that_only_stages_on_clips_use_is_refused_elsewhere(key, value):
    config = values("answers_short")
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=rf"config.{key}={value!r}: stage.loss='answers' does not use it"):
        check(build(config))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("data.train.buckets.videos.batch_size", 0, "config.data.train.buckets.videos.batch_size=0: at least 1"),
        ("data.heldout.buckets.videos.text_len", 0, "config.data.heldout.buckets.videos.text_len=0: at least 1"),
        ("data.train.workers", -1, "config.data.train.workers=-1: at least 0"),
        ("lora", {"rank": 4, "targets": ("q_prj",)}, r"config.lora.targets: 'q_prj' is no layer of the LLM; \["),
        ("lora", {"rank": 4}, r"config.lora.rank=4, but stage.trainable=\('projector',\) has no llm"),
        ("lora", {"rank": 4, "targets": ()}, r"config.lora.targets=\(\)"),
    ],
)
def test_so_is_what_a_stage_on_clips_could_not_do(key, value, told, tmp_path):
    config = values("sft")
    for data in config.data.values():
        data.mixture = str(tmp_path / "data.jsonl")
    (tmp_path / "data.jsonl").write_text("")
    if key == "lora":
        config.lora.update(value)
        config.stage.trainable = ("llm",) if "targets" in value else ("projector",)
    else:
        config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=told):
        check(build(config))


def test_a_best_checkpoint_needs_something_to_be_judged_by(tmp_path):
    config = values("sft")
    config.data.train.mixture = str(tmp_path / "train.jsonl")
    (tmp_path / "train.jsonl").write_text("")
    del config.data["heldout"]
    with pytest.raises(ValueError, match="config.loop.best_metric='token_loss', but there is no config.data.heldout"):
        check(build(config))
    config.loop.best_metric = ""
    assert check(build(config))


def test_a_selector_that_no_gradient_reaches_is_told():
    config = values("answers_short")
    config.stage.ranking_weight = 0.0
    config.switches = ConfigDict({"selector": {"score_use": "none"}})
    with pytest.raises(ValueError, match="no gradient would reach it"):
        check(build(config))
    config.stage.frozen = ("selector",)
    assert check(build(config)).selector.score_use == "none"
