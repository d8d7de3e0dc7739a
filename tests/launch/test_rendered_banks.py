"""A bank is rendered once, and another one never stands in its place."""

import numpy as np

from launch.rendered_banks import BankKey, rendered_bank
from vxlpro_jax.data.synthetic_bank import bank_video

KEY = BankKey("bank", 7, 1, 28, 4)


def test_a_bank_is_rendered_once_and_whatever_it_depends_on_is_in_its_name(tmp_path):
    drawn = []

    def draw(*args, **kwargs):
        drawn.append(args)
        return bank_video(*args, **kwargs)

    first, again = (rendered_bank(KEY, tmp_path, 1, draw) for _ in range(2))
    assert len(drawn) == 1
    np.testing.assert_array_equal(first.frames, again.frames)
    others = {"kind": "blank", "seed": 8, "num_videos": 2, "image_size": 56, "frames_per_group": 8}
    names = {KEY._replace(**{field: value}).name for field, value in others.items()}
    assert len(names | {KEY.name}) == 6
