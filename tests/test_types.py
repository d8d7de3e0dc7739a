"""What the alphabet of shapes can do besides naming."""

import numpy as np
import pytest

from vxlpro_jax.types import num_kept_by_rate


def test_counts_of_the_released_rule():
    assert {num_kept_by_rate(288, rate, 16) for rate in np.linspace(0.7, 0.99, 200)} == set(range(192, 273, 16))
    assert num_kept_by_rate(144, 1.0, 16) == 144
    for rate in (0.0, -0.5, 1.01, float("nan")):
        with pytest.raises(ValueError, match="share in"):
            num_kept_by_rate(288, rate, 16)
