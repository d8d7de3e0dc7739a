"""The bench compares like with like: the same frames at every compression, ratios within a round, real work."""

from dataclasses import replace

import pytest

from bench import compression_speed
from bench.compression_speed import (
    COMPRESSIONS,
    OUTER_PARTS,
    WORKS,
    Runner,
    Size,
    compressed,
    count,
    counted_ratios,
    speedups,
    training_batch,
    video_rows,
)
from tests.small_model import SMALL

SIZE = Size(replace(SMALL, llm=replace(SMALL.llm, vocab_size=592)), num_frames=16, batch_size=2, trained=OUTER_PARTS)


def test_the_same_frames_make_ever_fewer_rows() -> None:
    per_group = SMALL.tokens_per_group + SMALL.stamps.num_tokens
    for compression, groups in zip(COMPRESSIONS, (16, 8, 4, 2), strict=True):
        config = compressed(SIZE, compression)
        batch = training_batch(config, SIZE.num_frames, SIZE.batch_size)
        assert batch.frames.shape[:2] == (2, 16)
        rows = (batch.rows.row_source >= 0).sum(-1)
        assert video_rows(config, 16) == groups * per_group and set(rows) == {groups * per_group + 40}
        assert batch.width.shape[0] == rows[0] <= config.max_context_len  # nothing is padded, nothing is cut


def test_ratios_are_taken_within_a_round() -> None:
    """The machine is ten times slower in the second round: medians of seconds would say something else."""
    seconds = {"none": [4.0, 40.0, 4.0], "x2": [2.0, 20.0, 1.0], "x4": [1.0, 10.0, 8.0], "x8": [1.0, 10.0, 1.0]}
    found = speedups(seconds)
    assert found["none"]["rounds"] == [1, 1, 1]
    assert found["x2"] == {"median": 2, "low": 2, "high": 4, "rounds": [2, 2, 4]}
    assert found["x4"]["median"] == 4 and found["x4"]["low"] == 0.5


def test_every_round_runs_all_and_the_first_one_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, str]] = []

    class Pretend:
        num_rows = 7

        def __init__(self, size: Size, compression: str):
            self.config, self.name = compressed(size, compression), compression

        def run(self, work: str) -> float:
            ran.append((work, self.name))
            first = len(ran) <= len(WORKS) * len(COMPRESSIONS)
            return 100.0 if first else 8.0 / self.config.dts.frames_per_group

    monkeypatch.setattr(compression_speed, "Runner", Pretend)
    found = compression_speed.measure(SIZE, 2, lambda said: None)
    rounds = [[name for work, name in ran if work == "answer"][start : start + 4] for start in (0, 4, 8)]
    assert rounds[1] == rounds[0][::-1] == rounds[2][::-1] and set(rounds[0]) == set(COMPRESSIONS)
    for work in WORKS:
        assert [found[name][work]["times_as_fast"]["rounds"] for name in COMPRESSIONS] == [
            [1, 1],
            [2, 2],
            [4, 4],
            [8, 8],
        ]
        assert found["x4"][work]["seconds"]["median"] == 2.0


def test_operations_fall_with_the_rows_that_are_read() -> None:
    counted = counted_ratios({name: count(SIZE, name) for name in ("none", "x4")})
    none, fourth = counted["none"], counted["x4"]
    assert 1 == none["times_fewer"]["training step"] < fourth["times_fewer"]["training step"]
    assert none["answer"] == sum(none["answer_parts"].values())
    # Linear layers read 112 + 40 rows and 28 + 40; attention grows faster than the rows.
    assert 152 / 68 < none["answer_parts"]["prefill"] / fourth["answer_parts"]["prefill"] < (152 / 68) ** 2


@pytest.mark.slow
def test_a_runner_trains_and_answers() -> None:
    runner = Runner(SIZE, "x2")
    for work in WORKS:
        assert runner.run(work) > 0
    assert int(runner.state.step) == 1
    assert runner.num_rows > video_rows(runner.config, SIZE.num_frames)
    assert set(runner.state.params) == {"vision_tower", "dts", "projector", "selector", "llm"}
    runner.state = runner.state._replace(params={**runner.state.params, "llm": _broken(runner.state.params["llm"])})
    with pytest.raises(RuntimeError, match="the step was not applied"):
        runner.run("training step")


def _broken(tree: dict) -> dict:
    return {name: _broken(leaf) if isinstance(leaf, dict) else leaf * float("nan") for name, leaf in tree.items()}
