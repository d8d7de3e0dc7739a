"""How well clips are rebuilt from their codes, beside what needs no learning at the same compression.

Source: ours. Errors are shares of the features' variance: 0 is perfect, 1 is what the mean feature would do.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vxlpro_jax.models.recot import ReCoTModel
from vxlpro_jax.train.recot_stage import TRAINABLE

PCA_ROWS = 40_000  # rows of which a covariance is made at most; more change it little
MASK_SEED = 0  # of the one random mask under which all models are measured


class RunningError:
    """Squared errors and spread of features, added up chunk by chunk; mean float [E]: of the training features."""

    def __init__(self, mean: np.ndarray):
        self.mean, self.error, self.spread = mean, 0.0, 0.0

    def add(self, rebuilt: np.ndarray, features: np.ndarray) -> None:
        self.error += float(np.square(rebuilt - features, dtype=np.float64).sum())
        self.spread += float(np.square(features - self.mean, dtype=np.float64).sum())

    def share(self) -> float:
        return self.error / self.spread


def by_group(features: np.ndarray, group: int) -> np.ndarray:
    """Clips [N, t, g, g, E] as the rows of a code's places: [N * t / group * g * g, group * E]."""
    size, time, grid, _, dim = features.shape
    cut = features.reshape(size, time // group, group, grid, grid, dim)
    return cut.transpose(0, 1, 3, 4, 2, 5).reshape(-1, group * dim)


class Pca:
    """The best linear code of a place's `group` tokens in the room of one, fitted on clips."""

    def __init__(self, features: np.ndarray, group: int, seed: int = 0):
        rows = by_group(features, group)
        if len(rows) > PCA_ROWS:
            rows = rows[np.random.default_rng(seed).choice(len(rows), PCA_ROWS, replace=False)]
        rows = rows.astype(np.float64)
        self.group, self.mean = group, rows.mean(0)
        _, vectors = np.linalg.eigh(np.cov(rows - self.mean, rowvar=False))
        self.basis = vectors[:, -features.shape[-1] :]

    def rebuild(self, features: np.ndarray) -> np.ndarray:
        """Clips [N, t, g, g, E] through the code and back."""
        size, time, grid, _, dim = features.shape
        rows = by_group(features, self.group) - self.mean
        back = rows @ self.basis @ self.basis.T + self.mean
        cut = back.reshape(size, time // self.group, grid, grid, self.group, dim)
        return cut.transpose(0, 1, 4, 2, 3, 5).reshape(features.shape)


def repeat_mean(features: np.ndarray, group: int) -> np.ndarray:
    """Each frame as the mean of its group."""
    cut = features.reshape(features.shape[0], -1, group, *features.shape[2:])
    return np.broadcast_to(cut.mean(2, keepdims=True), cut.shape).reshape(features.shape)


def repeat_first(features: np.ndarray, group: int) -> np.ndarray:
    """Each frame as the first one of its group."""
    cut = features.reshape(features.shape[0], -1, group, *features.shape[2:])
    return np.broadcast_to(cut[:, :, :1], cut.shape).reshape(features.shape)


def baseline_errors(train: np.ndarray, heldout: Iterable[np.ndarray], group: int) -> dict[str, float]:
    """Error of the three ways that need no training of a network, on chunks of held-out clips; PCA is fitted on
    `train`."""
    pca, mean = Pca(train, group), train.astype(np.float64).mean((0, 1, 2, 3))
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "mean_of_frames": lambda features: repeat_mean(features, group),
        "first_frame": lambda features: repeat_first(features, group),
        "pca": pca.rebuild,
    }
    errors = {name: RunningError(mean) for name in ways}
    for features in heldout:
        for name, way in ways.items():
            errors[name].add(way(features), features)
    return {name: error.share() for name, error in errors.items()}


def heldout_errors(
    model: ReCoTModel, mean: np.ndarray, ratio: float
) -> Callable[[Any, Iterable[np.ndarray]], dict[str, float]]:
    """(params, chunks of held-out clips) -> errors "whole" (nothing hidden) and "hidden" (over all tokens, one random
    mask of `ratio`, the same whatever the model)."""

    def measure(params: Any, heldout: Iterable[np.ndarray]) -> dict[str, float]:
        parts = {name: params[name] for name in TRAINABLE}
        errors = {"whole": RunningError(mean), "hidden": RunningError(mean)}
        rng = np.random.default_rng(MASK_SEED)
        for features in heldout:
            masked = random_mask(rng, features.shape, ratio)
            for name, strength in (("whole", np.zeros_like(masked)), ("hidden", masked)):
                errors[name].add(np.asarray(_rebuild(model, parts, features, strength)), features)
        return {name: error.share() for name, error in errors.items()}

    return measure


def random_mask(rng: np.random.Generator, shape: tuple[int, ...], ratio: float) -> np.ndarray:
    """float32 [N, t, P] of a clip batch's shape [N, t, g, g, E]: 1 at a random `ratio` of each clip's tokens."""
    size, tokens = shape[0], shape[1] * shape[2] * shape[3]
    ranks = rng.random((size, tokens)).argsort(1).argsort(1)
    return (ranks < round(ratio * tokens)).astype(np.float32).reshape(size, shape[1], -1)


def clip_codes(model: ReCoTModel, params: Any, heldout: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Codes [n, G, g, g, E] of whole clips, chunk by chunk."""
    for features in heldout:
        yield np.asarray(_encode(model, params["dts"], jnp.asarray(features, jnp.float32)))


# Compiled once per model, whatever asks for it: a report measures many runs of the same one.
@partial(jax.jit, static_argnums=0)
def _encode(model: ReCoTModel, dts: Any, features: jax.Array) -> jax.Array:
    return model.apply({"params": {"dts": dts}}, features, method=ReCoTModel.encode)


@partial(jax.jit, static_argnums=0)
def _rebuild(model: ReCoTModel, parts: Any, features: jax.Array, strength: jax.Array) -> jax.Array:
    token = parts["sgm"]["mask_token"]
    return model.apply({"params": parts}, features, strength, token, method=ReCoTModel.rebuild).rebuilt
