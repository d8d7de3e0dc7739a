"""Pixels of the generated world: events are where and when they are said to be, at every size and rate."""

import numpy as np
import pytest

from vxlpro_jax.data.synthetic import COLOURS, DIGITS, DIRECTIONS, SHAPES, TEXTURES, Event, Scene, sample_video
from vxlpro_jax.data.synthetic_render import mover_place, render, render_frames

SCENE = (Scene(0.0, "waves", (1, 2)),)


def card(glyph="circle", colour="red", start=2.0, end=4.0):
    return Event("shape_card", start, end, glyph, colour, (0.5, 0.5), 0.5)


def test_card_shows_its_colour_on_white_while_it_lasts_and_only_then():
    times = np.arange(6.0)
    plain, shown = render(SCENE, (), times, (64, 64)), render(SCENE, (card(),), times, (64, 64))
    changed = (plain != shown).any((1, 2, 3))
    assert changed.tolist() == [False, False, True, True, False, False]
    assert np.abs(shown[2, 32, 32].astype(int) - COLOURS["red"]).max() <= 1
    assert shown[2, 19, 19].min() > 235  # the card's corner
    outside = shown[2].copy()
    outside[14:50, 14:50] = plain[2, 14:50, 14:50]
    assert (outside == plain[2]).all()


def test_every_glyph_looks_different_at_the_size_the_tower_sees():
    looks = [render(SCENE, (card(glyph),), np.array([2.0]), (56, 56))[0].astype(int) for glyph in SHAPES + DIGITS]
    for i, one in enumerate(looks):
        for other in looks[:i]:
            assert (np.abs(one - other).max(-1) > 100).sum() >= 6


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_mover_goes_where_it_says(direction):
    event = Event("mover", 0.0, 5.0, "star", "blue", (0.4, 0.4), 0.3, direction, 0.6)
    places = np.array([mover_place(event, time) for time in range(5)])
    axis, sign = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}[direction]
    assert (np.diff(places[:, axis]) * sign > 0.1).all() and np.ptp(places[:, 1 - axis]) == 0
    frames = render(SCENE, (event,), np.arange(5.0), (80, 80)).astype(int)
    blue = np.abs(frames - COLOURS["blue"]).max(-1) < 12
    for frame, (x, y) in zip(blue, places, strict=True):
        rows, columns = np.nonzero(frame)
        assert abs(columns.mean() / 80 - x) < 0.04 and abs(rows.mean() / 80 - y) < 0.04


@pytest.mark.parametrize("texture", TEXTURES)
def test_textures_move_keep_off_white_and_look_alike_at_two_sizes(texture):
    scene = (Scene(0.0, texture, (5, 6)),)
    small, large = (render(scene, (), np.arange(3.0), size).astype(float) for size in ((32, 32), (64, 64)))
    assert (small[0] != small[1]).any()
    assert large.max() < 215
    assert np.abs(large.reshape(3, 32, 2, 32, 2, 3).mean((2, 4)) - small).mean() < 6


def test_a_frame_does_not_depend_on_the_other_times_asked_for():
    video = sample_video(1, 3)
    every = render_frames(video, np.arange(0, 64, 0.5), (40, 48))
    assert every.shape == (128, 40, 48, 3) and every.dtype == np.uint8
    assert (every[::2] == render_frames(video, np.arange(64.0), (40, 48))).all()
