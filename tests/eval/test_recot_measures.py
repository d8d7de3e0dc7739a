"""The measures tell what they should on codes made by hand, where the answer is known."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from tests.small_model import SMALL
from vxlpro_jax.data.synthetic import DIRECTIONS
from vxlpro_jax.data.synthetic_bank import GroupBank
from vxlpro_jax.eval.recot_measures import (
    OPPOSITE,
    LabelledClips,
    clip_labels,
    frame_order,
    in_groups,
    masked_foreground,
    probe_codes,
    quarters,
    query_gradients,
)
from vxlpro_jax.models.recot import ReCoTConfig, ReCoTModel, init_recot
from vxlpro_jax.models.sgm import SgmConfig
from vxlpro_jax.train.recot_stage import ReCoTBatch, ReCoTStage

RNG = np.random.default_rng(0)


def moving_clips(count):
    """Clips [N, 4, 4, 4, 16] in which a bump moves one place a frame, and its direction."""
    direction = RNG.integers(0, 4, count)
    clips = 0.1 * RNG.standard_normal((count, 4, 4, 4, 16)).astype(np.float32)
    for n, (way, line) in enumerate(zip(direction, RNG.integers(0, 4, count), strict=True)):
        for t in range(4):
            along = t if DIRECTIONS[way] in ("right", "down") else 3 - t
            place = (line, along) if DIRECTIONS[way] in ("left", "right") else (along, line)
            clips[n, t, *place] += 1
    return clips, direction


def keeps_order(clips):
    """A code that holds each frame in channels of its own."""
    pooled = clips[..., :4].transpose(0, 2, 3, 1, 4)
    return pooled.reshape(len(clips), 1, 4, 4, 16)


def forgets_order(clips):
    return clips.mean(1, keepdims=True)


@pytest.fixture(scope="module")
def movers():
    return *moving_clips(400), *moving_clips(200)


def test_order_is_found_where_it_is_and_not_where_it_is_not(movers):
    train, train_way, heldout, way = movers
    kept, lost = (frame_order(code, train, heldout, train_way, way) for code in (keeps_order, forgets_order))
    assert kept["reversed"]["low"] > 0.9 and kept["forward"]["low"] > 0.9
    assert kept["cosine_shuffled"] < 0.5
    # Without order the probe tells the line of motion at best, and a reversed clip gets the forward clip's answer: of
    # the two one is wrong at least.
    assert lost["reversed"]["accuracy"] + lost["forward"]["accuracy"] <= 1
    assert lost["reversed"]["low"] < 0.6 and lost["cosine_shuffled"] > 0.9999


def test_each_group_of_a_clip_shows_its_own_part_of_the_motion():
    features = RNG.standard_normal((2, 4, 1, 1, 3))
    shown = np.array([[True, True, False, True], [False, False, True, True]])
    clips = LabelledClips(features, {"direction": np.array([2, 3])}, shown)
    groups, direction = in_groups(clips, 2)
    np.testing.assert_array_equal(groups.reshape(features.shape), features)
    assert groups.shape[:2] == (4, 2) and direction.tolist() == [2, -1, -1, 3]
    assert in_groups(clips, 4)[1].tolist() == [2, 3]


def test_opposites_are_opposite():
    assert [DIRECTIONS[i] for i in OPPOSITE] == ["right", "left", "down", "up"]
    assert (OPPOSITE[OPPOSITE] == np.arange(4)).all()


def test_quarters_are_means_of_the_grids_corners():
    code = RNG.standard_normal((3, 2, 6, 6, 5))
    rows = quarters(code).reshape(3, 2, 4, 5)
    np.testing.assert_allclose(rows[1, 1, 2], code[1, 1, 3:, :3].mean((0, 1)))


def test_labels_are_those_of_the_chosen_clips_and_a_glimpse_has_no_direction():
    shown = np.array([[True, False, False, False], [True, True, False, False], [False] * 4])
    filler = np.full(3, -1, np.int8)
    bank = GroupBank(
        frames=np.zeros((3, 4, 2, 2, 3), np.uint8),
        kind=np.array([3, 3, 0], np.int8),
        glyph=filler,
        colour=np.array([4, 5, -1], np.int8),
        direction=np.array([1, 2, -1], np.int8),
        shown=shown,
        column=np.zeros((3, 4), np.int8),
        row=np.zeros((3, 4), np.int8),
    )
    labels = clip_labels(bank, np.array([1, 0, 2]))
    assert labels["direction"].tolist() == [2, -1, -1] and labels["colour"].tolist() == [5, 4, -1]


@pytest.mark.slow
def test_probes_read_what_the_code_holds():
    labels = {name: RNG.integers(0, 2, 300) for name in ("kind", "glyph", "colour", "direction")}
    code = 0.3 * RNG.standard_normal((300, 1, 4, 4, 8)).astype(np.float32)
    code[..., 0] += labels["colour"][:, None, None, None]
    shown = np.ones((300, 4), bool)
    halves = [
        LabelledClips(code[part], {name: value[part] for name, value in labels.items()}, shown[part])
        for part in (slice(150), slice(150, None))
    ]
    found = probe_codes(lambda features: features, *halves)
    assert found["colour"]["accuracy"] > 0.95 and abs(found["glyph"]["accuracy"] - 0.5) < 0.2


@pytest.mark.parametrize("masking", ["semantic", "random"])
def test_foreground_is_counted_among_masked_tokens(masking):
    """Foreground whose score is made low is masked more often; a random masker masks it like anything else."""
    config = ReCoTConfig(sgm=SgmConfig(masking=masking, video_ratio=0.5))
    model = ReCoTModel(config, SMALL.dts)
    params = nn.unbox(jax.jit(lambda: init_recot(config, SMALL.dts, jax.random.key(0)))())
    foreground = RNG.random((64, 4, 4, 4)) < 0.25
    features = np.ones((64, 4, 4, 4, 16), np.float32) * np.where(foreground, -3.0, 1.0)[..., None].astype(np.float32)
    if masking == "semantic":  # the score becomes the token times its frame's mean
        params["sgm"]["temp_query"]["map"]["kernel"] *= 0
        params["sgm"]["spatio_query"]["map"]["kernel"] = np.eye(16, dtype=np.float32)
    features += 0.9  # frames' means are positive, so that foreground scores lowest
    groups = {"all": np.ones(64, bool)}
    shares, parts = masked_foreground(model, params, features, foreground, groups, seed=1)
    assert shares["all_tokens"] == pytest.approx(foreground.mean())
    assert shares["masked_at_random"] == pytest.approx(foreground.mean(), abs=3 * shares["masked_at_random_half_width"])
    assert (parts["masked"].sum((1, 2)) == 32).all()
    if masking == "semantic":
        assert shares["masked"] > shares["masked_at_random"] + 0.1 and shares["ratio_all"] > 1.4
    else:
        assert shares["masked"] == pytest.approx(foreground.mean(), abs=3 * shares["masked_half_width"])


def test_gradients_of_both_queries_are_told_and_random_masking_has_none():
    features = RNG.standard_normal((4, 4, 4, 4, 16)).astype(np.float16)
    batch = ReCoTBatch(features, np.zeros(4, bool), np.zeros(4, bool), np.arange(4, dtype=np.uint32), np.arange(4))
    for masking in ("semantic", "random"):
        config = ReCoTConfig(sgm=SgmConfig(masking=masking))
        stage = ReCoTStage(ReCoTModel(config, SMALL.dts), SMALL.vision, "float16")
        params = nn.unbox(jax.jit(lambda config=config: init_recot(config, SMALL.dts, jax.random.key(0)))())
        found = query_gradients(stage, params, batch)
        assert set(found) == ({"temp_query", "spatio_query"} if masking == "semantic" else set())
        assert all(value > 0 for value in found.values())
