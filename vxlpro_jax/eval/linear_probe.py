"""What can be read off frozen features by a linear map: the probe by which the paper compares encoders.

Source: paper 4.8 (Table 4: a frozen encoder, a small classifier on top). Differs: the paper's classifier has two
layers; with one the figure is about the features alone.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vxlpro_jax.eval.benchmark import share_interval

PENALTY = 1e-3  # of the squared weights beside the mean cross entropy; features have unit variance
STEPS = 40  # of L-BFGS; the loss has settled by then


class Probe(NamedTuple):
    """logits = (features - mean) / scale @ kernel + bias."""

    mean: np.ndarray
    scale: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Classes int [N] of features float [N, D]."""
        return ((features - self.mean) / self.scale @ self.kernel + self.bias).argmax(-1)


class ProbeResult(NamedTuple):
    """Share of right classes with its 95 % interval, over `number` features."""

    accuracy: float
    low: float
    high: float
    number: int


def fit_probe(
    features: np.ndarray, labels: np.ndarray, num_classes: int, penalty: float = PENALTY, steps: int = STEPS
) -> Probe:
    """A penalised softmax regression of labels int [N] (negative: not counted) on features float [N, D].

    Deterministic: it starts at zero and sees everything at once. Raises ValueError unless there are two classes.
    """
    counted = labels >= 0
    features, labels = np.asarray(features[counted], np.float32), np.asarray(labels[counted])
    if len(np.unique(labels)) < 2:
        raise ValueError(f"a probe of {len(np.unique(labels))} classes in {len(labels)} labels: two or more are needed")
    mean, scale = features.mean(0), features.std(0) + 1e-6
    kernel, bias = _fit(jnp.asarray((features - mean) / scale), jnp.asarray(labels), num_classes, penalty, steps)
    return Probe(mean, scale, np.asarray(kernel), np.asarray(bias))


def try_probe(probe: Probe, features: np.ndarray, labels: np.ndarray) -> ProbeResult:
    """The probe on features that it has not seen; labels int [N], negative: not counted."""
    counted = labels >= 0
    right = int((probe(np.asarray(features[counted], np.float32)) == labels[counted]).sum())
    number = int(counted.sum())
    return ProbeResult(right / number, *share_interval(right, number), number)


@partial(jax.jit, static_argnums=(2, 4))
def _fit(features, labels, num_classes: int, penalty: float, steps: int):
    def loss(weights):
        kernel, bias = weights
        cross = optax.softmax_cross_entropy_with_integer_labels(features @ kernel + bias, labels).mean()
        return cross + penalty * jnp.square(kernel).sum()

    optimizer = optax.lbfgs()
    value_and_gradient = optax.value_and_grad_from_state(loss)

    def step(carry, _):
        weights, state = carry
        value, gradient = value_and_gradient(weights, state=state)
        updates, state = optimizer.update(gradient, state, weights, value=value, grad=gradient, value_fn=loss)
        return (optax.apply_updates(weights, updates), state), None

    weights = (jnp.zeros((features.shape[1], num_classes)), jnp.zeros(num_classes))
    return jax.lax.scan(step, (weights, optimizer.init(weights)), None, length=steps)[0][0]
