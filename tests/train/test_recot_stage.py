"""The loss of the reconstructive stage: what it counts, that it is the same from frames and from kept features, that
micro-batches add up, and that it is learnt."""

from dataclasses import replace
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.small_model import SMALL, small_params
from vxlpro_jax.data.clip_shards import ClipShards, ClipSource, write_shards
from vxlpro_jax.models.recot import ReCoTConfig, ReCoTModel, init_recot
from vxlpro_jax.models.sgm import SgmConfig
from vxlpro_jax.train.losses import weighed_mean
from vxlpro_jax.train.recot_stage import (
    TRAINABLE,
    ReCoTBatch,
    ReCoTStage,
    recot_batches,
    recot_loss,
    tower_features,
)
from vxlpro_jax.train.state import new_state
from vxlpro_jax.train.step import make_train_step

RNG = np.random.default_rng(0)
SIDE = SMALL.vision.image_size
TOWER = small_params()["vision_tower"]
FRAMES = RNG.integers(0, 256, (24, 4, SIDE, SIDE, 3), np.uint8)
PICTURES = RNG.integers(0, 256, (8, 1, SIDE, SIDE, 3), np.uint8)


def stage_of(dtype=jnp.float32, **choices) -> ReCoTStage:
    return ReCoTStage(ReCoTModel(ReCoTConfig(**choices), SMALL.dts, dtype=dtype), SMALL.vision, "float16")


STAGE = stage_of()
PARAMS = nn.unbox(jax.jit(lambda: init_recot(STAGE.model.config, SMALL.dts, jax.random.key(0)))())
LOSS = jax.jit(recot_loss(STAGE))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The same clips as frames and as features."""
    encode = jax.jit(lambda frames: tower_features(STAGE, {"vision_tower": TOWER}, frames))
    found = {}
    for keep, run in (("frames", lambda frames: frames), ("features", lambda frames: np.asarray(encode(frames)))):
        folder = tmp_path_factory.mktemp(keep)
        sources = [ClipSource("v", False, lambda: FRAMES), ClipSource("p", True, lambda: PICTURES)]
        list(write_shards(folder, sources, run, {"keep": keep}))
        found[keep] = ClipShards(folder, 4)
    return found


def batches(shards, chosen=None, size=8, **choices):
    settings = {"image_share": 0.25, "whole_share": 0.25, "whole_from": 1.0, "num_steps": 100, "seed": 3}
    settings |= {"micro_batches": 1, **choices}
    ids = np.arange(shards.num_clips) if chosen is None else chosen
    return recot_batches(shards, ids, SimpleNamespace(batch_size=size, **settings))


def test_the_loss_is_the_same_with_and_without_the_cache(kept):
    """Bit for bit: features are rounded alike, and the draw of the masks follows the clip, not the way it is kept."""
    from_frames, from_features = batches(kept["frames"]), batches(kept["features"])
    for step in range(3):
        one, other = from_frames(step), from_features(step)
        assert one.clips.dtype == np.uint8 and other.clips.dtype == np.float16
        np.testing.assert_array_equal(one.is_image, other.is_image)
        first = LOSS({**PARAMS, "vision_tower": TOWER}, one, None)
        second = LOSS(PARAMS, other, None)
        for name in first.metrics:
            np.testing.assert_allclose(first.metrics[name].total, second.metrics[name].total, rtol=2e-5)
        np.testing.assert_allclose(weighed_mean(first.terms), weighed_mean(second.terms), rtol=2e-5)


def test_no_gradient_reaches_the_tower(kept):
    params = {**PARAMS, "vision_tower": TOWER}
    batch = batches(kept["frames"])(0)
    slope = jax.jit(jax.grad(lambda p, b: weighed_mean(recot_loss(STAGE)(p, b).terms)))(params, batch)
    assert not any(leaf.any() for leaf in jax.tree.leaves(slope["vision_tower"]))
    # At birth the correction of the decoder is silent, so only its last map and the direct one learn there.
    for path in (("dts", "stage_0", "conv"), ("decoder", "direct"), ("decoder", "widen"), ("sgm", "temp_query")):
        part = slope[path[0]][path[1]] if len(path) == 2 else slope[path[0]][path[1]][path[2]]
        assert any(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(part)), path
    assert jnp.abs(slope["sgm"]["spatio_query"]["map"]["kernel"]).max() > 0
    assert jnp.abs(slope["sgm"]["mask_token"]).max() > 0


def test_a_batch_holds_its_share_of_pictures_and_follows_from_seed_and_step(kept):
    make = batches(kept["features"])
    one, again, other = make(5), make(5), make(6)
    assert one.is_image.sum() == 2 and (~one.is_image).sum() == 6
    assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), one, again))
    assert (one.draw != other.draw).all()
    assert (one.clips[one.is_image] == one.clips[one.is_image][:, :1]).all()
    assert (one.clips[~one.is_image] != one.clips[~one.is_image][:, :1]).any()
    videos, pictures = (batches(kept["features"], ids)(0) for ids in (np.arange(24), np.arange(24, 32)))
    assert not videos.is_image.any() and pictures.is_image.all()
    with pytest.raises(ValueError, match="no clips to train on"):
        batches(kept["features"], np.arange(0))


def test_clips_are_whole_by_their_share_and_all_of_them_at_the_end(kept):
    make = batches(kept["features"], whole_share=0.3, whole_from=0.8)
    shares = [make(step).is_whole.mean() for step in range(100)]
    assert 0.2 < np.mean(shares[:80]) < 0.4 and min(shares[:80]) < 1
    assert min(shares[80:]) == 1
    assert not batches(kept["features"], whole_share=0.0)(99).is_whole.any()


def test_the_whole_part_begins_at_its_step_however_many_micro_batches_a_step_has(kept):
    make = batches(kept["features"], whole_share=0.0, whole_from=0.5, num_steps=4, micro_batches=3)
    assert [make(number).is_whole.all() for number in range(12)] == [False] * 6 + [True] * 6


def test_computed_in_bfloat16_the_loss_is_near_and_gradients_stay_float32(kept):
    batch = batches(kept["frames"])(0)
    half = stage_of(jnp.bfloat16)
    exact = weighed_mean(LOSS({**PARAMS, "vision_tower": TOWER}, batch, None).terms)
    held = {**PARAMS, "vision_tower": jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), TOWER)}

    def objective(chosen, batch):
        return weighed_mean(recot_loss(half)({**held, **chosen}, batch).terms)

    near, slope = jax.jit(jax.value_and_grad(objective))(PARAMS, batch)
    assert near.dtype == jnp.float32 and near != exact
    assert float(near) == pytest.approx(float(exact), rel=0.03)
    assert {leaf.dtype for leaf in jax.tree.leaves(slope)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(("positions", "whole_share"), [("all", 0.5), ("masked", 0.0)])
def test_the_loss_is_what_the_config_says(kept, positions, whole_share):
    """Recomputed token by token from the model's own output."""
    stage = stage_of(loss_positions=positions, visible_weight=0.3)
    batch = batches(kept["features"], whole_share=whole_share)(1)
    found = jax.jit(recot_loss(stage))(PARAMS, batch, None)
    features = jnp.asarray(batch.clips, jnp.float32)
    noise = jnp.stack([jax.random.gumbel(jax.random.key(seed), (4, 16)) for seed in batch.draw])
    is_whole = batch.is_whole
    flags = jnp.asarray(batch.is_image), jnp.asarray(is_whole)
    output, masking = jax.jit(stage.model.apply)({"params": PARAMS}, features, *flags, noise)
    assert is_whole.any() == (whole_share > 0)
    total = number = 0.0
    for clip in range(8):
        errors = np.square(np.asarray(output.rebuilt - features)[clip]).mean(-1).reshape(-1)
        lesser = 1.0 if is_whole[clip] else 0.3 if positions == "all" else 0.0
        weights = np.where(np.asarray(masking.masked)[clip].reshape(-1), 1.0, lesser)
        total += (errors * weights).sum()
        number += weights.sum()
    term = found.terms["reconstruction"]
    assert float(term.number) == pytest.approx(number, rel=1e-5)
    assert float(term.total) == pytest.approx(total, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("masking", ["semantic", "random"])
def test_micro_batches_add_up_and_the_stage_learns(kept, masking):
    """The same batch in one piece and in four gives the same parameters; twenty steps on it lower its loss."""
    stage = stage_of(sgm=SgmConfig(masking=masking))
    params = nn.unbox(jax.jit(lambda: init_recot(stage.model.config, SMALL.dts, jax.random.key(1)))())
    batch, after = batches(kept["features"])(0), []
    for pieces in (1, 4):
        optimizer = optax.sgd(1e-3)
        step = make_train_step(recot_loss(stage), TRAINABLE, optimizer)
        state = new_state(jax.tree.map(jnp.array, params), TRAINABLE, optimizer)
        cuts = np.array_split(np.arange(8), pieces)
        after.append(step(state, [ReCoTBatch(*(part[cut] for part in batch)) for cut in cuts])[0].params)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=2e-5), *after)
    optimizer = optax.adam(1e-2)
    step = make_train_step(recot_loss(stage), TRAINABLE, optimizer)
    state, seen = new_state(jax.tree.map(jnp.array, params), TRAINABLE, optimizer), []
    for _ in range(20):
        state, metrics = step(state, [batch])
        seen.append(float(metrics["loss"]))
    assert seen[-1] < 0.9 * seen[0]


def test_run_settings_that_contradict_each_other_are_named():
    from configs.tiny import recot
    from vxlpro_jax.config import build
    from vxlpro_jax.train.recot_stage import ReCoTRunConfig

    config = build(recot.get_config(), ReCoTRunConfig)
    with pytest.raises(ValueError, match="config.data.clip_frames=6: a multiple of the 4 frames"):
        replace(config, data=replace(config.data, clip_frames=6))
    with pytest.raises(ValueError, match="config.image_share=1.0"):
        replace(config, image_share=1.0)
