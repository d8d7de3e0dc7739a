"""The bank of labelled groups: labels say what the pixels show, and painting anew keeps them true."""

import numpy as np
import pytest

from vxlpro_jax.data.synthetic import COLOURS
from vxlpro_jax.data.synthetic_bank import (
    COLOUR_NAMES,
    GROUPS_PER_VIDEO,
    KINDS,
    build_bank,
    join_banks,
    load_bank,
    repaint,
    save_bank,
    take,
    texture_video,
    through_codec,
)


@pytest.fixture(scope="module")
def bank():
    return join_banks(list(build_bank(seed=3, num_videos=10, image_size=28, frames_per_group=4, workers=1)))


def white(frames):
    return (frames.min(-1) > 225).mean((1, 2))


def test_shapes_and_shares(bank):
    assert bank.frames.shape == (160, 4, 28, 28, 3) and bank.frames.dtype == np.uint8
    assert bank.shown.shape == (160, 4) and len(bank) == 160
    assert set(bank.kind.tolist()) == set(range(len(KINDS)))


def test_labels_say_what_is_shown(bank):
    names = np.array(KINDS)[bank.kind]
    assert not bank.shown[names == "none"].any() and bank.shown[names != "none"].any(1).all()
    assert ((bank.direction >= 0) == (names == "mover")).all()
    assert ((bank.glyph >= 6) == (names == "digit_card")).all()
    cards = np.char.endswith(names, "_card")
    share = white(bank.frames.reshape(-1, 28, 28, 3)).reshape(-1, 4)
    assert (share[cards][bank.shown[cards]] > 0.03).mean() > 0.97
    assert (share[cards][~bank.shown[cards]] < 0.01).mean() > 0.97


def test_textures_are_many_and_show_nothing(bank):
    textures = texture_video(3, 0, 28, 4)
    assert textures.frames.shape == (16, 4, 28, 28, 3) and not textures.shown.any() and not textures.kind.any()
    last = textures.frames[:, -1].astype(float).mean((1, 2))
    changes = np.abs(np.diff(last, axis=0)).max(-1) > 5  # another mean colour: another texture
    assert changes.sum() >= 4
    inside = np.abs(np.diff(textures.frames.astype(float).mean((2, 3)), axis=1)).max((1, 2)) > 5
    assert 2 <= inside.sum() <= 14  # groups that show two
    assert (texture_video(3, 0, 28, 4).frames == textures.frames).all()
    assert (texture_video(3, 1, 28, 4).frames != textures.frames).any()


def test_column_and_row_say_where_the_card_is(bank):
    cards = np.isin(bank.kind, [1, 2, 4])
    assert ((bank.column >= 0) == bank.shown).all() and ((bank.row >= 0) == bank.shown).all()
    far = []
    for group, frame in zip(*np.nonzero(bank.shown & cards[:, None]), strict=True):
        rows, columns = np.nonzero(bank.frames[group, frame].min(-1) > 225)
        far.append([columns.mean() / 7 - bank.column[group, frame], rows.mean() / 7 - bank.row[group, frame]])
    assert (np.abs(np.array(far) - 0.5) < 0.8).mean() > 0.97


def test_the_colour_label_is_the_colour_in_the_picture(bank):
    squares = [i for i in range(len(bank)) if KINDS[bank.kind[i]] == "shape_card" and bank.glyph[i] in (0, 1)]
    assert squares
    for i in squares:
        frame = bank.frames[i, bank.shown[i].argmax()].astype(int)
        far = np.abs(frame - np.array(COLOURS[COLOUR_NAMES[bank.colour[i]]])).max(-1)
        assert far.min() < 60


def test_a_video_of_the_bank_does_not_depend_on_the_others_nor_on_the_workers(bank):
    one = list(build_bank(3, 2, 28, 4, workers=2))
    assert (one[1].frames == bank.frames[GROUPS_PER_VIDEO : 2 * GROUPS_PER_VIDEO]).all()


def test_repaint_replaces_the_share_asked_for_and_leaves_the_bank_alone(bank):
    before = bank.frames.copy()
    chosen, empty = np.arange(100), np.flatnonzero(bank.kind == 0)
    rng = np.random.default_rng(0)
    none, some, every = (take(bank, chosen) for _ in range(3))
    for groups, share in ((none, 0.0), (some, 0.5), (every, 1.0)):
        repaint(rng, groups, bank, empty, share)
        assert (groups.kind == bank.kind[:100]).all()
    assert (none.frames == bank.frames[:100]).all()
    changed = (some.frames != bank.frames[:100]).any((1, 2, 3, 4))
    assert 30 < changed.sum() < 70
    assert (bank.frames == before).all()
    cards = np.isin(every.kind, [KINDS.index("shape_card"), KINDS.index("digit_card")])
    share = white(every.frames.reshape(-1, 28, 28, 3)).reshape(-1, 4)[cards]
    assert (share[every.shown[cards]] > 0.03).all() and (share[~every.shown[cards]] < 0.01).all()


def test_banks_are_kept_on_disk(bank, tmp_path):
    save_bank(take(bank, np.arange(5)), tmp_path / "bank.npz")
    again = load_bank(tmp_path / "bank.npz")
    assert (again.frames == bank.frames[:5]).all() and (again.shown == bank.shown[:5]).all()
    assert [path.name for path in tmp_path.iterdir()] == ["bank.npz"]


def test_the_codec_changes_pixels_but_not_frames(bank):
    frames = bank.frames[:4].reshape(-1, 28, 28, 3)
    decoded = through_codec(frames, crf=28)
    assert decoded.shape == frames.shape and (decoded != frames).any()
    assert np.abs(decoded.astype(float) - frames).mean() < 12
