"""What a training run carries from step to step.

Source: ours.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Params = dict[str, Any]


class TrainState(NamedTuple):
    """step int32 []: updates made. params: the whole tree by module. opt_state: of the trainable modules alone."""

    step: jax.Array
    params: Params
    opt_state: optax.OptState


def new_state(params: Params, trainable: tuple[str, ...], optimizer: optax.GradientTransformation) -> TrainState:
    """Step 0 of a run that trains the named modules.

    Raises ValueError for a module that the tree does not have.
    """
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(split_params(params, trainable)[0]))


def split_params(params: Params, trainable: tuple[str, ...]) -> tuple[Params, Params]:
    """The trainable modules, and the frozen rest."""
    unknown = [name for name in trainable if name not in params]
    if unknown:
        raise ValueError(
            f"trainable modules {unknown} are not in the parameters: {sorted(params)} are (stage.trainable)."
        )
    chosen = {name: params[name] for name in trainable}
    return chosen, {name: value for name, value in params.items() if name not in trainable}
