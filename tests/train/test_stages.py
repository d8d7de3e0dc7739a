"""The losses of the stages: they fall, they reach what they should, and they follow the labels that they are given."""

from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.complete_bank import complete_bank
from vxlpro_jax.data.synthetic_bank import build_bank, join_banks, take
from vxlpro_jax.data.synthetic_guess import GuessRows
from vxlpro_jax.data.synthetic_rows import BankIndex
from vxlpro_jax.data.synthetic_words import group_words
from vxlpro_jax.data.tokenizer import TextTokenizer, build_tiny_tokenizer
from vxlpro_jax.models.part_configs import with_compression
from vxlpro_jax.models.presets import PRESETS
from vxlpro_jax.models.video_xl_pro import VideoXLProModel, init_params
from vxlpro_jax.train.answer_feed import TEXT_LEN, AnswerFeed, RowMix, divided_times, mark_batches
from vxlpro_jax.train.losses import num_targets, weighed_mean
from vxlpro_jax.train.stages import StageConfig, answer_check, dts_features, project, spell, stage_loss
from vxlpro_jax.train.state import new_state
from vxlpro_jax.train.step import make_check, make_train_step
from vxlpro_jax.train.vision_feed import (
    encode_bank,
    frame_batches,
    group_batches,
    labelled,
    whitened_patches,
    with_fitted_projector,
    with_unit_features,
)
from vxlpro_jax.train.vision_heads import new_heads
from vxlpro_jax.types import IGNORE_LABEL, ClipBatch

TINY = PRESETS["tiny"]
SMALL = replace(TINY, vision=replace(TINY.vision, num_layers=1), llm=replace(TINY.llm, num_layers=2))
MODEL = VideoXLProModel(SMALL)


def mix(groups, size, drop=0.0):
    return RowMix(groups, size, 512, 1.0, drop, when_share=0.3, guess_share=0.0, settled_guess=False)


def stage(loss, *trainable):
    return StageConfig(
        loss,
        trainable,
        10,
        group_weight=1.0,
        ranking_weight=0.3,
        ranking_sharpness=20.0,
        stamp_weight=0.0,
    )


@pytest.fixture(scope="module")
def bank():
    return join_banks(list(build_bank(5, 24, SMALL.vision.image_size, SMALL.dts.frames_per_group, workers=1)))


@pytest.fixture(scope="module")
def params():
    fresh = nn.unbox(jax.jit(lambda: init_params(SMALL, jax.random.key(0)))())
    return {**fresh, "heads": new_heads(jax.random.key(1), SMALL.vision.dim)}


@pytest.fixture(scope="module")
def feed():
    labels = complete_bank()
    features = np.random.default_rng(0).normal(size=(len(labels), 4, 4, SMALL.vision.dim)).astype(np.float16)
    return AnswerFeed(features[:, None], BankIndex(labels), TextTokenizer(build_tiny_tokenizer()), SMALL)


def value(loss, params, batch):
    return weighed_mean(loss(params, batch, jax.random.key(0)).terms)


def falls(loss, params, trainable, batch, steps=12):
    """Loss before and after some steps on one batch; frozen modules must stay."""
    optimizer = optax.adam(3e-3)
    params = jax.tree.map(jnp.copy, params)
    frozen = {name: jax.tree.map(np.asarray, value) for name, value in params.items() if name not in trainable}
    step = make_train_step(loss, trainable, optimizer)
    state, seen = new_state(params, trainable, optimizer), []
    for _ in range(steps):
        state, metrics = step(state, [batch])
        seen.append(float(metrics["loss"]))
    for name, value in frozen.items():
        assert jax.tree.all(jax.tree.map(lambda one, other: bool((one == other).all()), value, state.params[name]))
    return seen[0], seen[-1], state.params


def test_frames_teach_the_tower(bank, params):
    batch = frame_batches(bank, 0, 32, painted=0.5)(0)
    first, last, _ = falls(stage_loss(stage("frames"), MODEL), params, ("vision_tower", "heads"), batch)
    assert last < 0.8 * first


def test_groups_teach_tower_and_dts(bank, params):
    batch = group_batches(bank, 0, 8, painted=0.5)(0)
    first, last, after = falls(stage_loss(stage("groups"), MODEL), params, ("vision_tower", "dts", "heads"), batch)
    assert last < 0.8 * first
    conv = ("dts", "stage_0", "conv", "kernel")
    assert not np.allclose(leaf(params, conv), leaf(after, conv))


def leaf(tree, path):
    for name in path:
        tree = tree[name]
    return np.asarray(tree)


def test_answers_teach_projector_selector_and_llm(feed, params):
    batch = feed.draw(
        np.random.default_rng(0),
        RowMix(4, 16, TEXT_LEN + 28, 1.0, drop=0.5, when_share=0.3, guess_share=0.0, settled_guess=False),
    )
    trainable = ("projector", "selector", "llm")
    first, last, after = falls(stage_loss(stage("answers"), MODEL), params, trainable, batch)
    assert last < 0.7 * first
    for path in (("projector", "fc1", "kernel"), ("selector", "window_attention", "q_proj", "kernel")):
        assert not np.allclose(leaf(params, path), leaf(after, path)), path


def test_words_teach_selector_and_llm_alone(params):
    labels, tokenizer = complete_bank(), TextTokenizer(build_tiny_tokenizer())
    words = AnswerFeed(group_words(labels, tokenizer.encode)[:, None], BankIndex(labels), tokenizer, SMALL)
    batch = words.draw(
        np.random.default_rng(0), RowMix(4, 16, TEXT_LEN + 28, 1.0, 0.0, 0.3, guess_share=0.0, settled_guess=False)
    )
    first, last, after = falls(stage_loss(stage("words"), MODEL), params, ("selector", "llm"), batch)
    assert last < 0.7 * first
    visual = np.asarray(spell(MODEL, params, batch.features))
    one = batch.features[0, 0][batch.features[0, 0] >= 0]
    table = leaf(params, ("llm", "embed_tokens", "embedding"))
    np.testing.assert_allclose(visual[0, 0], np.tile(table[one].mean(0), (SMALL.tokens_per_group, 1)), atol=1e-6)


def test_rows_to_guess_at_come_at_their_share(feed):
    labels = complete_bank()
    guesses = GuessRows(BankIndex(labels), 5, 2, 48, offset=0)  # any groups will do as their pictures here
    guessing = AnswerFeed(feed.features, feed.index, TextTokenizer(build_tiny_tokenizer()), SMALL, guesses)
    batch = guessing.draw(
        np.random.default_rng(0), RowMix(4, 200, 512, 1.0, 0.0, 0.3, guess_share=0.25, settled_guess=False)
    )
    assert 0.15 < 1 - batch.relevant.any(1).mean() < 0.35


def test_without_ranking_the_selector_is_reached_through_the_added_score_alone(feed, params):
    batch = feed.draw(
        np.random.default_rng(0),
        RowMix(4, 8, TEXT_LEN + 28, 1.0, drop=0.0, when_share=0.3, guess_share=0.0, settled_guess=False),
    )
    config = replace(stage("answers"), ranking_weight=0.0)
    gradient = jax.jit(jax.grad(lambda p, b: value(stage_loss(config, MODEL), p, b)))(params, batch)
    assert np.abs(leaf(gradient, ("selector", "text_mlp", "kernel"))).max() > 0
    silent = VideoXLProModel(replace(SMALL, selector=replace(SMALL.selector, score_use="none")))
    gradient = jax.jit(jax.grad(lambda p, b: value(stage_loss(config, silent), p, b)))(params, batch)
    assert np.abs(leaf(gradient, ("selector", "text_mlp", "kernel"))).max() == 0


def test_batches_fit_their_budget_and_hold_what_is_asked_about(feed):
    mix = RowMix(16, 24, TEXT_LEN + 60, 1.0, drop=1.0, when_share=0.3, guess_share=0.0, settled_guess=False)
    batch = feed.draw(np.random.default_rng(3), mix)
    per_group = SMALL.tokens_per_group + SMALL.stamps.num_tokens
    assert batch.width.shape == (TEXT_LEN + 60,)
    assert (batch.selection.budget <= 60).all()
    assert (batch.selection.budget >= np.minimum(batch.relevant.sum(1) * per_group, 60)).all()
    assert ((batch.rows.labels != IGNORE_LABEL).sum(1) >= 2).all()


def test_batches_are_a_function_of_seed_and_step(feed, bank):
    make = feed.batches(
        {
            "a": RowMix(2, 4, 512, 0.5, 0.0, when_share=0.3, guess_share=0.0, settled_guess=False),
            "b": RowMix(4, 4, 512, 0.5, 0.0, when_share=0.3, guess_share=0.0, settled_guess=False),
        },
        seed=3,
    )
    one, again, other = make(5), make(5), make(6)
    assert jax.tree.all(jax.tree.map(lambda x, y: bool((np.asarray(x) == np.asarray(y)).all()), one, again))
    assert one.features.shape != other.features.shape or (one.features != other.features).any()
    sizes = {make(step).features.shape[1] for step in range(12)}
    assert sizes == {2, 4}
    frames = frame_batches(bank, 1, 4, 0.5)
    assert (frames(2).pixels == frames(2).pixels).all() and (frames(2).pixels != frames(3).pixels).any()


def test_marking_counts_right_answers_by_kind_and_ranks_groups(feed, params):
    batch = feed.draw(
        np.random.default_rng(1), RowMix(4, 32, 512, 1.0, 0.0, when_share=0.3, guess_share=0.0, settled_guess=False)
    )
    right = np.arange(32) % 2 == 0
    scores = np.where(batch.relevant, 1.0, 0.0)[..., None].repeat(4, -1)
    marks = mark_batches(lambda b: (right, scores), [batch])
    assert marks["all"] == 0.5 and marks["ranked"] == marks["iou"] == 1.0
    assert mark_batches(lambda b: (right, 1 - scores), [batch])["ranked"] == 0.0
    check = jax.jit(answer_check(stage("answers"), MODEL))
    assert 0 <= mark_batches(lambda b: check(params, b), [batch])["all"] < 0.5


def test_whitened_patches_have_equal_strength(bank):
    patches = whitened_patches(bank, 14, 32, num_frames=384, floor=0.0)
    frames = bank.frames[:, 0].astype(np.float32) / 127.5 - 1
    cut = frames.reshape(-1, 4, 14, 4, 14, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 588)
    out = cut @ patches["kernel"].reshape(588, 32) + patches["bias"]
    np.testing.assert_allclose(np.cov(out, rowvar=False), np.eye(32), atol=0.05)
    np.testing.assert_allclose(out.mean(0), 0, atol=0.02)


def test_labels_of_frames_and_groups(bank):
    batch = labelled(bank)
    shown = bank.shown.reshape(-1)
    assert (batch.frame_labels["kind"][~shown] == 0).all()
    assert (batch.frame_labels["glyph"][~shown] == -1).all()
    seen = bank.shown.sum(1)
    assert (batch.group_labels["direction"][seen < 2] == -1).all()
    assert (batch.group_labels["direction"][(seen >= 2) & (bank.kind == 3)] >= 0).all()
    assert batch.pixels.min() >= -1 and batch.pixels.max() <= 1


def test_the_bank_is_encoded_whole_whatever_the_chunk(bank, params):
    few = type(bank)(*(getattr(bank, name)[:10] for name in bank.__dataclass_fields__))
    one, other = (encode_bank(MODEL, params, few, chunk) for chunk in (4, 16))
    assert one.shape == (10, 1, 4, 4, SMALL.vision.dim) and one.dtype == np.float16
    np.testing.assert_allclose(one, other, atol=2e-3)


def test_a_group_of_the_bank_may_be_several_of_the_models(bank, params):
    """A model that joins no frames gives a code, a time and a place among what is relevant for each of the four."""
    alone = replace(SMALL, dts=with_compression(SMALL.dts, "none"))
    few = type(bank)(*(getattr(bank, name)[:10] for name in bank.__dataclass_fields__))
    passing = {**params, "dts": {"temporal_encoding": jnp.zeros((1, SMALL.vision.dim))}}
    features = encode_bank(VideoXLProModel(alone), passing, few, 16)
    assert features.shape == (10, 4, 4, 4, SMALL.vision.dim)
    frames = jax.jit(partial(dts_features, MODEL))(params, labelled(few).pixels)[0]
    np.testing.assert_allclose(features, np.asarray(frames).reshape(features.shape), atol=1e-2)
    labels = complete_bank()
    marked = (np.arange(len(labels) * 4) % 1024).astype(np.float16).reshape(len(labels), 4, 1, 1, 1)
    feed = AnswerFeed(marked, BankIndex(labels), TextTokenizer(build_tiny_tokenizer()), alone)
    batch = feed.draw(np.random.default_rng(0), mix(groups=3, size=6))
    assert batch.features.shape[:2] == (6, 12) and batch.rows.stamp_ids.shape[:2] == (6, 12)
    for of_row, relevant in zip(batch.features[..., 0, 0, 0], batch.relevant, strict=True):
        assert (np.diff(of_row.reshape(3, 4)) == 1).all(), "parts of a group stay together, in their order"
        assert (relevant.reshape(3, 4).any(1) == relevant.reshape(3, 4).all(1)).all() and relevant.any()


def test_times_between_those_of_groups_are_even():
    np.testing.assert_array_equal(divided_times(np.array([8, 12]), 4), [8, 9, 10, 11, 12, 13, 14, 15])
    np.testing.assert_array_equal(divided_times(np.array([8]), 2), [8, 8])


def test_a_new_projector_is_born_for_the_size_of_what_it_reads(bank, params):
    last = params["dts"]["stage_1"]
    louder = {**params["dts"], "stage_1": {**last, "conv": jax.tree.map(lambda leaf: 3 * leaf, last["conv"])}}
    fitted = [with_fitted_projector(MODEL, {**params, "dts": dts}, bank, 32) for dts in (params["dts"], louder)]
    seen = jax.jit(lambda params, pixels: project(MODEL, params, dts_features(MODEL, params, pixels)[1]))
    some = labelled(take(bank, np.arange(32))).pixels
    one, other = (np.asarray(seen(params, some)) for params in fitted)
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_visual_tokens_learn_to_tell_their_groups_time(feed, params):
    """The stamp loss falls on one batch, and it is about each group's own stamp."""
    config = replace(stage("answers"), stamp_weight=1.0)
    batch = feed.draw(
        np.random.default_rng(0), RowMix(4, 16, 512, 1.0, 0.3, when_share=0.3, guess_share=0.0, settled_guess=False)
    )
    _, _, after = falls(stage_loss(config, MODEL), params, ("projector", "selector", "llm"), batch, steps=40)
    moved = batch._replace(rows=batch.rows._replace(stamp_ids=batch.rows.stamp_ids[:, ::-1]))
    check = make_check(stage_loss(config, MODEL))
    fresh, learnt = (check(p, [batch])["stamp_loss"] for p in (params, after))
    assert learnt < 0.8 * fresh
    assert np.isfinite(check(after, [moved])["stamp_loss"])


def test_features_are_scaled_to_one_and_nothing_else_changes(bank, params):
    scaled = with_unit_features(MODEL, params, bank, num_groups=64)
    before, after = (encode_bank(MODEL, p, bank, 64).astype(np.float32) for p in (params, scaled))
    assert np.sqrt(np.square(after).mean()) == pytest.approx(1, abs=0.1)
    np.testing.assert_allclose(after * np.sqrt(np.square(before).mean() / np.square(after).mean()), before, atol=0.02)


@pytest.fixture(scope="module")
def clips(feed):
    """Rows of the bank's questions with frames of noise: what the loss computes needs no sense."""
    batch = feed.draw(np.random.default_rng(0), mix(groups=3, size=4))
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (4, 3 * 4, 56, 56, 3), np.uint8)
    told = np.array([True, True, False, True])
    ids = np.arange(4, dtype=np.int32)
    return ClipBatch(frames, batch.rows, batch.selection, batch.relevant, told, np.ones(4, bool), ids, batch.width)


@pytest.mark.slow
def test_clips_teach_every_part(clips, params):
    trainable = ("vision_tower", "dts", "projector", "selector", "llm")
    config = replace(stage("clips"), z_weight=1e-4)
    first, last, after = falls(stage_loss(config, MODEL), params, trainable, clips, steps=5)
    assert last < 0.9 * first
    for path in (("vision_tower", "patch_embedding", "kernel"), ("dts", "stage_0", "conv", "kernel")):
        assert not np.allclose(leaf(params, path), leaf(after, path)), path


@pytest.mark.slow
def test_saving_memory_changes_no_loss_and_no_gradient(clips, params):
    """Groups encoded two at a time (three do not divide), logits seven places at a time, layers computed again."""
    plain = replace(stage("clips"), z_weight=1e-3)
    saving = replace(plain, encode_groups=2, loss_chunk=7)

    def both(config, model):
        return jax.jit(jax.value_and_grad(lambda p, b: value(stage_loss(config, model), p, b)))(params, clips)

    loss, gradient = both(plain, MODEL)
    again, same = both(saving, MODEL.clone(remat=True))
    assert float(again) == pytest.approx(float(loss), rel=1e-5)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(same), strict=True):
        # Some gradients are zero but for rounding: a bias that shifts all of a softmax alike.
        np.testing.assert_allclose(other, one, atol=1e-4 * float(jnp.abs(one).max()) + 2e-5)


def test_what_is_counted_follows_from_the_batch_and_is_what_the_rows_hold(clips, feed, params):
    batch = jax.tree.map(jnp.asarray, feed.draw(np.random.default_rng(5), mix(groups=4, size=8, drop=0.9)))
    args = (project(MODEL, params, batch.features.astype(jnp.float32)), batch.rows, batch.selection)
    output = MODEL.apply({"params": params}, *args, batch.width.shape[0])
    assert int(num_targets(batch.rows)) == int((output.labels[:, 1:] != IGNORE_LABEL).sum()) > 8


def test_only_rows_that_say_what_matters_are_ranked(clips, params):
    found = jax.jit(stage_loss(stage("clips"), MODEL))(params, clips, jax.random.key(0))
    rows = clips.relevant.any(1) & ~clips.relevant.all(1) & clips.has_relevant
    assert int(found.terms["ranking_loss"].number) == rows.sum() < 4


def test_clips_without_questions_are_refused(clips, params):
    bare = clips._replace(rows=None, selection=None, relevant=None, has_relevant=None, width=None)
    with pytest.raises(ValueError, match="needs data that asks something"):
        stage_loss(stage("clips"), MODEL)(params, bare, jax.random.key(0))
