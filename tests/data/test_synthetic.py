"""The generated world: same seed, same video; no two events where one answer could not be told from another."""

import numpy as np
import pytest

from vxlpro_jax.data.synthetic import DIRECTIONS, GROUP_S, MIN_LENGTH_S, WORLDS, sample_video


def cells(event):
    return set(range(int(event.start_s) // GROUP_S, int(event.end_s - 1) // GROUP_S + 1))


def test_a_sample_depends_on_seed_and_index_alone():
    assert sample_video(3, 7) == sample_video(3, 7)
    assert sample_video(3, 7) != sample_video(3, 8)
    assert sample_video(3, 7) != sample_video(4, 7)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("length_s", [32, 64, 200])
def test_events_lie_inside_the_video_and_share_no_cell_nor_look(world, length_s):
    length_s = max(length_s, MIN_LENGTH_S[world])
    for index in range(40):
        events = sample_video(1, index, length_s, world).events
        taken = [cell for event in events for cell in cells(event)]
        assert len(taken) == len(set(taken))
        assert all(0 <= event.start_s < event.end_s <= length_s for event in events)
        asked = [event for event in events if event.kind != "blank_card"]
        looks = [look for event in asked for look in (event.glyph, event.colour)]
        alone = [event for event in asked if looks.count(event.glyph) == looks.count(event.colour) == 1]
        assert {event.kind for event in alone} == {"shape_card", "digit_card", "mover"}
        assert world == "lookalike" or alone == asked


def test_standard_video_holds_one_of_each_kind():
    for index in range(50):
        kinds = sorted(event.kind for event in sample_video(2, index).events)
        assert kinds == ["digit_card", "mover", "shape_card"]


def test_draws_are_balanced_and_start_anywhere():
    events = [event for index in range(600) for event in sample_video(5, index).events]
    movers = [event for event in events if event.kind == "mover"]
    counts = np.array([sum(event.direction == name for event in movers) for name in DIRECTIONS])
    assert np.abs(counts - 150).max() < 45  # four standard deviations
    cards = [event for event in events if event.kind != "mover"]
    lengths = np.array([event.end_s - event.start_s for event in cards])
    assert 0.2 < (lengths == 1).mean() < 0.3
    assert np.bincount([int(event.start_s) % GROUP_S for event in cards], minlength=GROUP_S).min() > 150
    first = [events[0].kind == "shape_card" for events in ordered_cards()]
    assert 0.42 < np.mean(first) < 0.58


def ordered_cards():
    for index in range(600):
        yield [event for event in sample_video(6, index).events if event.kind != "mover"]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="'desert' is unknown: one of standard"):
        sample_video(0, 0, world="desert")
    with pytest.raises(ValueError, match="length_s=8 .*at least 32"):
        sample_video(0, 0, length_s=8)
