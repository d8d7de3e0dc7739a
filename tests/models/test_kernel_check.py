"""The comparison of kernels with XLA passes what rounds, and tells what is wrong. XLA stands for the kernels here."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.small_model import SMALL
from vxlpro_jax.models import kernel_check
from vxlpro_jax.models.attention import attend, attend_stored
from vxlpro_jax.models.kernel_check import CHECKS, check_kernels, usable_kind


@pytest.fixture
def pretended(monkeypatch):
    """Every program counts as one with a kernel in it."""
    monkeypatch.setattr(kernel_check, "KERNEL_CALLS", ("func",))


def small_checks(names=None):
    return {check.name: check for check in check_kernels(SMALL, jnp.bfloat16, names, slots=256)}


def test_a_cpu_has_no_kernels_and_keeps_what_was_asked_for(monkeypatch):
    (check,) = check_kernels(names=["encode"])
    assert (check.name, check.by_kernel, check.holds) == ("encode", False, True)
    monkeypatch.setattr(kernel_check, "SLOTS", 256)
    assert usable_kind("kernel", SMALL, jnp.bfloat16, training=True) == "kernel"


def test_rounding_passes_and_is_told(pretended):
    found = small_checks()
    assert tuple(found) == CHECKS
    for check in found.values():
        assert check.by_kernel and check.holds and 1e-4 < check.error, check


def a_key_too_few(q, k, v, *_):
    return attend(q, k, v, jnp.ones(k.shape[:2], bool).at[:, 7].set(False))


def no_holes(q, keys, values, layer, valid, slot, kind):
    return attend_stored(q, keys, values, layer, jnp.ones_like(valid), slot)


def another_layer(q, keys, values, layer, valid, slot, kind):
    return attend_stored(q, keys, values, layer - 1, valid, slot)


def a_slot_too_far(q, keys, values, layer, valid, slot, kind):
    return attend_stored(q, keys, values, layer, valid, slot + 1)


def not_a_number(q, *_):
    return q * np.nan


@pytest.mark.parametrize(
    "seam, broken, names",
    [
        ("attend_to_all", a_key_too_few, ("encode", "encode_gradient")),
        ("attend_to_all", not_a_number, ("encode",)),
        ("attend_stored", no_holes, ("read_start", "read_piece", "decode")),
        ("attend_stored", another_layer, ("read_piece", "decode")),
        ("attend_stored", a_slot_too_far, ("read_start", "read_piece", "decode")),
    ],
)
def test_what_is_wrong_is_told(pretended, monkeypatch, seam, broken, names):
    monkeypatch.setattr(kernel_check, seam, broken)
    assert [check.holds for check in small_checks(names).values()] == [False] * len(names)


def test_a_kernel_that_fails_is_not_used(pretended, monkeypatch):
    monkeypatch.setattr(kernel_check, "attend_to_all", a_key_too_few)
    monkeypatch.setattr(kernel_check, "SLOTS", 256)
    with pytest.warns(UserWarning, match=r"attention kernels fail on this device \(encode: off by .*left to XLA"):
        assert usable_kind("auto", SMALL, jnp.bfloat16) == "xla"
    with pytest.raises(ValueError, match=r"attention='kernel': .*encode: off by .*use attention='auto' or 'xla'"):
        usable_kind("kernel", SMALL, jnp.bfloat16)
    assert usable_kind("xla", SMALL, jnp.bfloat16) == "xla"


def test_what_a_compiler_refuses_is_told(pretended, monkeypatch):
    def refused(*_):
        raise NotImplementedError("no such tile")

    monkeypatch.setattr(kernel_check, "attend_to_all", refused)
    with pytest.warns(UserWarning, match="encode: NotImplementedError: no such tile"):
        assert usable_kind("auto", SMALL, jnp.bfloat16) == "xla"
