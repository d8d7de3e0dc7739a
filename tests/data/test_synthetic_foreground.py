"""Foreground that is known: where it is marked the event is, and nowhere else."""

import numpy as np

from vxlpro_jax.data.synthetic_foreground import CAST, foreground_clips

CLIPS = foreground_clips(1, 24, 4, 56, 4)


def test_each_clip_shows_its_event_where_it_is_marked():
    assert CLIPS.frames.shape == (24, 4, 56, 56, 3) and CLIPS.foreground.shape == (24, 4, 4, 4)
    share = CLIPS.foreground.mean((1, 2, 3))
    assert (share > 0.01).all() and (share < 0.9).all()
    assert not CLIPS.foreground[~CLIPS.shown].any() and CLIPS.foreground[CLIPS.shown].any((1, 2)).all()
    assert {1, 4} < set(CLIPS.shown.sum(1)) <= {1, 2, 3, 4}  # brief ones, lasting ones, and some between
    assert ((CLIPS.direction >= 0) == (CLIPS.kind == CAST.index("mover"))).all()
    assert set(CLIPS.kind) == {0, 1, 2}


def test_cards_are_bright_where_they_are_marked_and_movers_move():
    """A card is white: its tokens are brighter than the texture, which stays below 205."""
    tokens = CLIPS.frames.reshape(24, 4, 4, 14, 4, 14, 3).astype(float).max((3, 5)).min(-1)
    cards = CLIPS.kind != CAST.index("mover")
    marked = CLIPS.foreground[cards]
    assert tokens[cards][marked].mean() > tokens[cards][~marked].mean() + 60
    lasting = CLIPS.shown.all(1)
    still = (CLIPS.foreground == CLIPS.foreground[:, :1]).all((1, 2, 3))
    assert still[cards & lasting].all() and not still[~cards & lasting].any()


def test_a_clip_does_not_depend_on_how_many_there_are():
    few = foreground_clips(1, 3, 4, 56, 4)
    for name in CLIPS._fields:
        np.testing.assert_array_equal(getattr(few, name), getattr(CLIPS, name)[:3])
    assert (foreground_clips(2, 3, 4, 56, 4).frames != few.frames).any()
