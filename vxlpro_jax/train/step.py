"""One update: gradients of the trainable modules, the optimizer's step, the metrics.

Source: ours.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from vxlpro_jax.train.stages import LossFunction
from vxlpro_jax.train.state import TrainState, split_params


def make_train_step(
    loss: LossFunction, trainable: tuple[str, ...], optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """A jitted (state, batch) -> (state, metrics); frozen modules get no gradient. The given state's buffers are used
    up."""

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        chosen, frozen = split_params(state.params, trainable)

        def objective(chosen):
            return loss({**frozen, **chosen}, batch)

        gradients, metrics = jax.grad(objective, has_aux=True)(chosen)
        updates, opt_state = optimizer.update(gradients, state.opt_state, chosen)
        params = {**frozen, **optax.apply_updates(chosen, updates)}
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        return TrainState(state.step + 1, params, opt_state), metrics

    return jax.jit(step, donate_argnums=0)
