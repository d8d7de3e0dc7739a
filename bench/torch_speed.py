"""Our speed over PyTorch's on this machine: the same float32 weights and input on both sides, run by turns.

    python -m bench.run --only siglip_1 --json FILE

in the environment of `make parity`. First both sides have to give the same numbers; then every round runs ours, PyTorch
and PyTorch in bfloat16, back and forth, and the ratio is taken within a round. bench/torch_sides.py makes the sides.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

BARS = {"siglip_1": 1.2, "siglip_8": 1.2, "dts": 1.0, "prefill": 1.2, "decode_step": 1.0}  # times PyTorch's speed
ROUNDS = 5
TOLERANCE = 1e-4  # of the largest number; both sides round to 24 bits, in another order


class Sides(NamedTuple):
    """Each side runs once and returns its numbers when they are there. about: what is computed. num_steps: the
    seconds are of so many."""

    about: str
    ours: Callable[[], np.ndarray]
    torch: Callable[[], np.ndarray]
    torch_bf16: Callable[[], np.ndarray]
    num_steps: int = 1


class DifferentNumbersError(ValueError):
    """The sides do not compute the same: a ratio of their times would mean nothing."""


def largest_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference over the largest number. Raises DifferentNumbersError beyond the tolerance."""
    if ours.shape != theirs.shape:
        raise DifferentNumbersError(f"ours is {ours.shape}, PyTorch's {theirs.shape}")
    error = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if not error <= TOLERANCE:
        raise DifferentNumbersError(f"ours and PyTorch's differ by {error:.1e} of the largest; {TOLERANCE} is accepted")
    return error


def compare(name: str, sides: Sides, rounds: int = ROUNDS) -> dict[str, Any]:
    """Seconds of each side, and whether ours is as many times as fast as the bar asks, by the median of the rounds.

    processor_seconds, of all threads, waiting for each other included, say more where others use the machine too.
    """
    error = largest_error(sides.ours(), sides.torch())
    sides.torch_bf16()
    runs = {"ours": sides.ours, "torch": sides.torch, "torch_bf16": sides.torch_bf16}
    seconds: dict[str, list[float]] = {side: [] for side in runs}
    processor_s: dict[str, list[float]] = {side: [] for side in runs}
    for number in range(rounds):
        for side in runs if number % 2 else reversed(runs):
            began, worked = time.perf_counter(), time.process_time()
            runs[side]()
            seconds[side].append((time.perf_counter() - began) / sides.num_steps)
            processor_s[side].append((time.process_time() - worked) / sides.num_steps)

    def faster_than(side: str) -> list[float]:
        return [theirs / ours for theirs, ours in zip(seconds[side], seconds["ours"], strict=True)]

    ratios = faster_than("torch")
    return {
        "about": sides.about,
        "largest_error": error,
        "seconds": {side: [round(value, 5) for value in found] for side, found in seconds.items()},
        "processor_seconds": {side: round(statistics.median(found), 5) for side, found in processor_s.items()},
        "times_as_fast": round(statistics.median(ratios), 3),
        "times_as_fast_by_round": [round(value, 3) for value in ratios],
        "times_as_fast_as_bf16": round(statistics.median(faster_than("torch_bf16")), 3),
        "bar": BARS[name],
        "holds": statistics.median(ratios) >= BARS[name],
    }
