"""What a training run carries from step to step, and which of its parameters are trained.

Source: ours; SPEC 13 for the parts that the reference can train or freeze.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

Params = dict[str, Any]
FlatParams = dict[str, Any]
"""Leaves by path, names joined by "/"."""

EMBEDDINGS = "llm/embed_tokens"
ALIASES = {"embeddings": EMBEDDINGS}
"""Parts that have a name of their own although they lie inside a module."""


class TrainState(NamedTuple):
    """step int32 []: batches consumed. params: the whole tree by module. opt_state: of the trained leaves alone.

    key uint32 [2]: what is random in step s follows from it and s. skipped, skipped_in_row int32 []: updates that were
    not made because loss or gradient was not finite, in all and since the last that was made.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    key: jax.Array
    skipped: jax.Array
    skipped_in_row: jax.Array


def new_state(
    params: Params,
    trainable: tuple[str, ...],
    optimizer: optax.GradientTransformation,
    frozen: tuple[str, ...] = (),
    seed: int = 0,
) -> TrainState:
    """Step 0 of a run that trains the named parts; see split_params."""
    chosen, _ = split_params(params, trainable, frozen)
    key = jax.random.key_data(jax.random.key(seed % 2**31))
    return TrainState(_zero(), params, optimizer.init(chosen), key, _zero(), _zero())


def _zero() -> jax.Array:
    return jnp.zeros((), jnp.int32)  # a buffer of its own: the step donates each


def split_params(
    params: Params, trainable: tuple[str, ...], frozen: tuple[str, ...] = ()
) -> tuple[FlatParams, FlatParams]:
    """The trained leaves, and the frozen rest.

    Args:
        params: the whole tree.
        trainable, frozen: parts: a module ("llm"), something inside one ("llm/layers/mlp") or an alias ("embeddings").
            Of all that name a leaf the longest decides; a leaf that nothing names is frozen.

    Raises:
        ValueError: a part that the tree does not have.
    """
    leaves = flatten_dict(params, sep="/")
    trained = {path for path in leaves if _depth(path, trainable) > _depth(path, frozen)}
    for name, parts in (("trainable", trainable), ("frozen", frozen)):
        unknown = [part for part in parts if not any(part_of(path, (part,)) for path in leaves)]
        if unknown:
            known = sorted({*params, *ALIASES})
            raise ValueError(f"stage.{name}: {unknown} are not in the parameters; {known} are, and paths inside them.")
    chosen = {path: leaf for path, leaf in leaves.items() if path in trained}
    return chosen, {path: leaf for path, leaf in leaves.items() if path not in trained}


def _depth(path: str, parts: tuple[str, ...]) -> int:
    part = part_of(path, parts)
    return 0 if part is None else _len(part)


def _len(part: str) -> int:
    return len(ALIASES.get(part, part))


def part_of(path: str, parts: tuple[str, ...] | Mapping[str, Any]) -> str | None:
    """The longest of the parts that a leaf belongs to."""
    found = [part for part in parts if f"{path}/".startswith(f"{ALIASES.get(part, part)}/")]
    return max(found, key=_len) if found else None


def join_params(*parts: FlatParams) -> Params:
    """The nested tree of leaves by path."""
    return unflatten_dict({path: leaf for part in parts for path, leaf in part.items()}, sep="/")
