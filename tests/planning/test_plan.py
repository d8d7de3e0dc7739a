"""Plans: what is read, what fits, what would make it fit, and the longest video."""

from dataclasses import replace

import pytest

from vxlpro_jax.parallel.devices import DEVICES, device_named
from vxlpro_jax.planning.memory import peak_bytes
from vxlpro_jax.planning.plan import (
    PROMPT_ROWS,
    Work,
    check_work,
    largest_video,
    limit_bytes,
    make_plan,
    record,
    rows_read,
    seconds_at_limit,
)

A100 = Work("video_xl_pro_3b", device_named("a100-80gb"), 8192)
V5E = replace(A100, device=device_named("v5e"))


def test_rows_are_those_that_ask_would_read():
    assert rows_read(A100) == 32768 - 128
    assert rows_read(replace(A100, num_frames=8)) == PROMPT_ROWS + 2 * 154
    assert rows_read(replace(A100, whole=True)) == PROMPT_ROWS + 2048 * 154
    assert rows_read(replace(A100, keep=5000)) == PROMPT_ROWS + 5000
    # The released rule: a share, rounded down to a multiple of 16, and every stamp.
    assert rows_read(replace(A100, num_frames=128, keep=0.7)) == PROMPT_ROWS + 320 + 3216
    with pytest.raises(ValueError, match=r"keep=0.5 leaves .* rows, as every stamp stays; the context holds 32640"):
        rows_read(replace(A100, keep=0.5))


def test_what_fits():
    plan = make_plan(replace(A100, whole=True))
    assert plan.fits and plan.advice == [] and plan.setting is None
    close = make_plan(replace(A100, whole=True, num_frames=49152))
    assert close.fits and close.setting == "XLA_PYTHON_CLIENT_MEM_FRACTION=0.95"


def test_what_does_not_fit_says_what_would():
    plan = make_plan(replace(V5E, whole=True))
    assert not plan.fits
    assert plan.advice[0] == "without --whole it fits"
    assert "frames fit so (the device's memory ends it)" in plan.advice[1]
    assert plan.advice[2].startswith("it fits on v6e") and plan.advice[2].endswith("h200")
    assert make_plan(V5E).fits
    wide = make_plan(replace(V5E, frames_per_batch=256))
    assert wide.advice[0] == "--frames-per-batch 8 it fits"
    huge = make_plan(replace(A100, whole=True, num_frames=10**6, host_bytes=2**40))
    assert not huge.fits and all("it fits on" not in line for line in huge.advice)
    poor = make_plan(replace(A100, host_bytes=2**30))
    assert poor.advice == ["the index needs 1.1 GiB of host memory: a host that has it, or fewer frames"]


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
@pytest.mark.parametrize("whole", [False, True])
def test_the_longest_video_fits_and_one_group_more_does_not(device, whole):
    work = replace(A100, device=device, whole=whole)
    frames, reason = largest_video(work)
    assert frames > 4000 and frames % 4 == 0
    at_end, beyond = (make_plan(replace(work, num_frames=frames + more)) for more in (0, 4))
    assert at_end.fits and not beyond.fits
    on_device = peak_bytes(beyond.held) > limit_bytes(device)
    assert reason == ("the device's memory" if on_device else "the host's memory")


def test_the_longest_video_of_a_share_is_ended_by_the_context():
    work = replace(A100, keep=0.7)
    frames, reason = largest_video(work)
    assert reason == "the context" and rows_read(replace(work, num_frames=frames)) <= 32640
    with pytest.raises(ValueError, match="every stamp stays"):
        rows_read(replace(work, num_frames=frames + 4))


def test_a_device_too_small_for_the_weights():
    work = replace(A100, device=replace(A100.device, memory_bytes=4e9))
    assert largest_video(work) == (0, "nothing fits")
    assert make_plan(work).advice[0].startswith("it fits on v5e")


def test_seconds_follow_the_device():
    fast, slow = (seconds_at_limit(replace(A100, device=device_named(name)), 32640) for name in ("h200", "a100-80gb"))
    for phase in ("encode", "choose", "prefill"):
        assert slow[phase] / fast[phase] == pytest.approx(989 / 312)
    assert slow["token"] / fast["token"] == pytest.approx(4.8 / 2.039)
    assert seconds_at_limit(A100, 32768, 1e15)["prefill"] == pytest.approx(0.34, abs=0.005)


def test_compiled_figures_take_the_place_of_computed_ones():
    plan = make_plan(A100, {"encoder activations": 123})
    [part] = [part for part in plan.held if part.how == "compiled"]
    assert (part.name, part.bytes) == ("encoder activations", 123)


def test_a_record_says_how_each_figure_was_found():
    values = record(make_plan(A100), 0.25)
    assert values["fits"] is True and values["device_bytes"] < values["device_limit_bytes"]
    assert {part["how"] for part in values["memory"]} == {"computed"} == {p["how"] for p in values["seconds"].values()}
    for phase in values["seconds"].values():
        assert phase["at_efficiency"] == pytest.approx(4 * phase["at_limit"])
    assert values["largest_frames"]["how"] == "computed"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_frames": 0}, "frames=0"),
        ({"num_frames": 10**9}, "frames=1000000000: at most"),
        ({"keep": 0}, "keep=0"),
        ({"keep": float("nan")}, "keep=nan"),
        ({"keep": 0.5, "whole": True}, "one of the two"),
        ({"frames_per_batch": 0}, "frames_per_batch=0"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"host_bytes": 0}, "host memory of 0 GiB"),
    ],
)
def test_wrong_work(change, message):
    with pytest.raises(ValueError, match=message):
        check_work(replace(A100, **change), 0.5)
    with pytest.raises(ValueError, match="efficiency=0"):
        check_work(A100, 0)
