"""What the alphabet of shapes can do besides naming."""

import numpy as np
import pytest

from vxlpro_jax.types import num_kept_by_rate, num_kept_in_training


def test_counts_of_the_released_rule():
    assert {num_kept_by_rate(288, rate, 16) for rate in np.linspace(0.7, 0.99, 200)} == set(range(192, 273, 16))
    assert num_kept_by_rate(144, 1.0, 16) == 144
    for rate in (0.0, -0.5, 1.01, float("nan")):
        with pytest.raises(ValueError, match="share in"):
            num_kept_by_rate(288, rate, 16)


def test_training_keeps_what_is_smaller_than_the_multiple():
    assert [num_kept_in_training(size, 0.95, 16) for size in (0, 4, 16, 20, 33, 144)] == [0, 4, 16, 16, 16, 128]
    assert [num_kept_in_training(size, 0.95, 1) for size in (0, 4, 100)] == [0, 3, 95]
