"""A comparison checks numbers first, runs all sides by turns, and can miss its bar; nothing here needs torch."""

import numpy as np
import pytest

from bench import torch_speed
from bench.torch_speed import BARS, DifferentNumbersError, Sides, compare, largest_error


class Clock:
    """Seconds that pass only while a side runs; both clocks that compare reads."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.ran: list[str] = []
        monkeypatch.setattr(torch_speed.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(torch_speed.time, "process_time", lambda: 2 * self.now)

    def side(self, name, seconds, numbers=(1.0, -2.0)):
        waits = iter(seconds)

        def run():
            self.ran.append(name)
            self.now += next(waits)
            return np.array(numbers)

        return run


def sides(clock, ours, torch, num_steps=1):
    """Rounds of ours and torch, after a first run that counts nowhere; bf16 takes a second."""
    return Sides(
        "two numbers",
        clock.side("ours", [100.0, *ours]),
        clock.side("torch", [1.0, *torch]),
        clock.side("bf16", [1.0] * 10),
        num_steps,
    )


def test_ratios_are_taken_within_a_round(monkeypatch):
    clock = Clock(monkeypatch)
    found = compare("dts", sides(clock, [1, 10, 2], [1.5, 20, 1]), rounds=3)
    assert found["times_as_fast_by_round"] == [1.5, 2, 0.5] and found["times_as_fast"] == 1.5
    assert found["holds"] and found["bar"] == BARS["dts"] == 1.0 and found["largest_error"] == 0
    assert found["times_as_fast_as_bf16"] == 0.5
    assert found["processor_seconds"] == {"ours": 4, "torch": 3, "torch_bf16": 2}
    assert clock.ran[3:6] == clock.ran[6:9][::-1] == clock.ran[9:] and set(clock.ran[3:6]) == {"ours", "torch", "bf16"}


def test_a_bar_can_be_missed_and_seconds_are_of_a_step(monkeypatch):
    found = compare("prefill", sides(Clock(monkeypatch), [4, 4, 4], [4.4, 4.4, 4.4], num_steps=4), rounds=3)
    assert not found["holds"] and found["times_as_fast"] == 1.1
    assert found["seconds"]["ours"] == [1, 1, 1]


def test_other_numbers_are_not_timed(monkeypatch):
    clock = Clock(monkeypatch)
    one, other = clock.side("ours", [1.0]), clock.side("torch", [1.0], (1.0, -2.001))
    with pytest.raises(DifferentNumbersError, match="5.0e-04 of the largest"):
        compare("dts", Sides("two numbers", one, other, clock.side("bf16", [])))
    assert clock.ran == ["ours", "torch"]
    with pytest.raises(DifferentNumbersError, match="nan"):
        largest_error(np.array([np.nan]), np.array([1.0]))
    with pytest.raises(DifferentNumbersError, match=r"ours is \(2,\), PyTorch's \(1,\)"):
        largest_error(np.zeros(2), np.zeros(1))
