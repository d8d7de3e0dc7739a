"""The probe finds what is linear, finds nothing where there is nothing, and says how sure it is."""

import numpy as np
import pytest

from vxlpro_jax.eval.linear_probe import fit_probe, try_probe

RNG = np.random.default_rng(0)


def data(count, signal):
    labels = RNG.integers(0, 3, count)
    features = RNG.standard_normal((count, 20)) * np.linspace(1, 50, 20) + 100
    features[np.arange(count), labels] += signal
    return features, labels


def test_what_is_linear_is_found_whatever_the_scale_of_channels():
    probe = fit_probe(*data(600, 25.0), 3)
    result = try_probe(probe, *data(400, 25.0))
    assert result.accuracy > 0.95 and result.low < result.accuracy <= result.high <= 1 and result.number == 400


def test_where_there_is_nothing_the_interval_holds_chance():
    result = try_probe(fit_probe(*data(600, 0.0), 3), *data(400, 0.0))
    assert result.low < 1 / 3 < result.high


def test_negative_labels_do_not_count():
    features, labels = data(300, 8.0)
    poisoned = np.concatenate([features, features]), np.concatenate([labels, np.full(300, -1)])
    one, other = fit_probe(features, labels, 3), fit_probe(*poisoned, 3)
    np.testing.assert_array_equal(one.kernel, other.kernel)
    assert try_probe(one, *poisoned).number == 300


def test_a_single_class_is_refused():
    with pytest.raises(ValueError, match="a probe of 1 classes in 5 labels"):
        fit_probe(np.ones((5, 2)), np.ones(5, int), 2)
