"""A 3x3x3 convolution index by index, whose border repeats in space; which moments meet which taps is the caller's."""

from collections.abc import Callable

import numpy as np

Taps = Callable[[int], list[tuple[int, int]]]


def drawn_conv(rng: np.random.Generator, times: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(x [1, times, 3, 4, 5], parameters of five channels to six)."""
    shapes = {"kernel": (3, 3, 3, 5, 6), "bias": (6,)}
    x = rng.standard_normal((1, times, 3, 4, 5)).astype(np.float32)
    return x, {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def assert_is_conv(ours: np.ndarray, x: np.ndarray, params: dict[str, np.ndarray], times: int, taps: Taps) -> None:
    """taps(t): the pairs (tap in time, moment of x) that make up moment t."""
    height, width = x.shape[2:4]
    assert ours.shape == (1, times, height, width, params["kernel"].shape[-1])
    for t, row, column in np.ndindex(times, height, width):
        expected = params["bias"].astype(np.float64)
        for (dt, moment), dy, dx in ((tap, dy, dx) for tap in taps(t) for dy, dx in np.ndindex(3, 3)):
            at = (moment, np.clip(row + dy - 1, 0, height - 1), np.clip(column + dx - 1, 0, width - 1))
            expected = expected + x[(0, *at)] @ params["kernel"][dt, dy, dx]
        np.testing.assert_allclose(ours[0, t, row, column], expected, atol=1e-4)
