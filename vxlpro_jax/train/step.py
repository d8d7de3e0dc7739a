"""One update: the gradient of an overall batch, the optimizer's step, what came of it.

Source: ours; paper, table 3 (an overall batch of 64 on few devices needs accumulation).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vxlpro_jax.train.losses import LossTerms, Tally, Term, weighed_mean
from vxlpro_jax.train.stages import LossFunction
from vxlpro_jax.train.state import FlatParams, Params, TrainState, join_params, split_params

Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Sequence[Any]], tuple[TrainState, Metrics]]


def make_train_step(
    loss: LossFunction,
    trainable: tuple[str, ...],
    optimizer: optax.GradientTransformation,
    frozen: tuple[str, ...] = (),
    shardings: TrainState | None = None,
) -> TrainStep:
    """(state, micro-batches) -> (state, metrics): one update by the gradient of all micro-batches together.

    Micro-batches may have different shapes; each term of the loss is divided by what all of them counted, so that a
    token weighs the same in each. Frozen parts get no gradient. A step whose loss or gradient is not finite changes
    neither parameters nor optimizer. The given state's buffers are used up.

    shardings: of the state, which then keeps them from step to step; None leaves the layout to the compiler.
    """

    def key_of(state: TrainState, number: int) -> jax.Array:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        return jax.random.fold_in(key, number)

    def count(state: TrainState, batch: Any) -> dict[str, tuple[Any, Any]]:
        found = loss(state.params, batch, key_of(state, 0))
        return {name: (term.number, term.weight) for name, term in found.terms.items()}

    def gradient(state: TrainState, batch: Any, number: int, numbers: dict[str, Any]):
        chosen, rest = split_params(state.params, trainable, frozen)

        def objective(chosen):
            found = loss(join_params(rest, chosen), batch, key_of(state, number))
            shares = {name: term._replace(number=numbers[name]) for name, term in found.terms.items()}
            return weighed_mean(shares), tallies_of(found)

        return jax.grad(objective, has_aux=True)(chosen)

    def update(state: TrainState, gradients: FlatParams, tallies: dict[str, Tally], weights: dict[str, Any]):
        return apply_gradients(optimizer, trainable, frozen, state, gradients, tallies, weights)

    def whole(state: TrainState, batch: Any):
        counted = count(state, batch)
        numbers, weights = ({name: pair[i] for name, pair in counted.items()} for i in (0, 1))
        gradients, tallies = gradient(state, batch, 0, numbers)
        return update(state, gradients, tallies, weights)

    def add(state: TrainState, gathered: Any, batch: Any, number: int, numbers: dict[str, Any]):
        return jax.tree.map(jnp.add, gathered, gradient(state, batch, number, numbers))

    laid_out = (shardings, None) if shardings is not None else None
    at_once = jax.jit(whole, donate_argnums=0, out_shardings=laid_out)
    # What a jitted function does not need of its arguments is not even sent to the device: counting costs no pixels.
    counter = jax.jit(count)
    start, adder = jax.jit(gradient), jax.jit(add, donate_argnums=1)
    finish = jax.jit(update, donate_argnums=0, out_shardings=laid_out)

    def step(state: TrainState, batches: Sequence[Any]) -> tuple[TrainState, Metrics]:
        if len(batches) == 1:
            return at_once(state, batches[0])
        counted = [counter(state, batch) for batch in batches]
        numbers = {name: sum(line[name][0] for line in counted) for name in counted[0]}
        weights = {name: pair[1] for name, pair in counted[0].items()}
        gathered = start(state, batches[0], 0, numbers)
        for number, batch in enumerate(batches[1:], 1):
            gathered = adder(state, gathered, batch, number, numbers)
        return finish(state, *gathered, weights)

    return step


def apply_gradients(
    optimizer: optax.GradientTransformation,
    trainable: tuple[str, ...],
    frozen: tuple[str, ...],
    state: TrainState,
    gradients: FlatParams,
    tallies: dict[str, Tally],
    weights: dict[str, Any],
) -> tuple[TrainState, Metrics]:
    """The state after an update by these gradients, or unchanged but for its counters where they are not finite.

    tallies: of every term of the loss and every metric; weights: of the terms.
    """
    chosen, rest = split_params(state.params, trainable, frozen)
    terms = {name: Term(tallies[name].total, tallies[name].number, weight) for name, weight in weights.items()}
    total, norm = weighed_mean(terms), optax.tree.norm(gradients)
    finite = jnp.isfinite(total) & jnp.isfinite(norm)

    def if_finite(new, old):
        return jax.tree.map(lambda one, other: jnp.where(finite, one, other), new, old)

    updates, opt_state = optimizer.update(gradients, state.opt_state, chosen)
    missed = 1 - finite.astype(jnp.int32)
    new = TrainState(
        step=state.step + 1,
        params=join_params(rest, if_finite(optax.apply_updates(chosen, updates), chosen)),
        opt_state=if_finite(opt_state, state.opt_state),
        key=state.key,
        skipped=state.skipped + missed,
        skipped_in_row=(state.skipped_in_row + missed) * missed,
    )
    metrics = {"loss": total, **{name: tally.mean() for name, tally in tallies.items()}}
    metrics |= {"gradient_norm": norm, **norms_by_module(gradients)}
    return new, metrics | {"skipped": new.skipped, "skipped_in_row": new.skipped_in_row}


def make_check(loss: LossFunction) -> Callable[[Params, list[Any]], dict[str, float]]:
    """(params, batches) -> the loss and the means of its terms and metrics over all batches together."""

    @jax.jit
    def tallies(params, batch):
        found = loss(params, batch, jax.random.key(0))
        return {"loss": Tally(weighed_mean(found.terms), jnp.ones(())), **tallies_of(found)}

    def check(params: Params, batches: list[Any]) -> dict[str, float]:
        lines = [tallies(params, batch) for batch in batches]
        summed = jax.tree.map(lambda *parts: sum(np.asarray(part, np.float64) for part in parts), *lines)
        return {name: float(total / max(count, 1)) for name, (total, count) in summed.items()}

    return check


def tallies_of(found: LossTerms) -> dict[str, Tally]:
    """Every term, unweighed, and every metric."""
    return {name: Tally(term.total, term.number) for name, term in found.terms.items()} | found.metrics


def norms_by_module(gradients: FlatParams) -> dict[str, jax.Array]:
    """Norm of the gradient of every module."""
    modules = sorted({path.split("/")[0] for path in gradients})
    return {
        f"gradient_norm/{module}": optax.tree.norm(
            {path: leaf for path, leaf in gradients.items() if path.split("/")[0] == module}
        )
        for module in modules
    }
