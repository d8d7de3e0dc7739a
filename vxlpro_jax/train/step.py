"""One update: the gradient of an overall batch, the optimizer's step, what came of it.

Source: ours; paper, table 3 (an overall batch of 64 on few devices needs accumulation).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vxlpro_jax.train.losses import LossTerms, Tally, Term, weighed_mean
from vxlpro_jax.train.stages import LossFunction
from vxlpro_jax.train.state import FlatParams, Params, TrainState, join_params, split_params

TrainStep = Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]
STATIC_LEAF = "width"
"""Field of a batch whose shape is what it says: it has no row per sample."""


def make_train_step(
    loss: LossFunction,
    trainable: tuple[str, ...],
    optimizer: optax.GradientTransformation,
    frozen: tuple[str, ...] = (),
    micro_batches: int = 1,
) -> TrainStep:
    """A jitted (state, batch) -> (state, metrics); frozen parts get no gradient. The given state's buffers are used up.

    micro_batches: parts that the batch is cut into, gone through one after the other; their gradients add up to the
    whole batch's. A step whose loss or gradient is not finite changes neither parameters nor optimizer.
    """

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        chosen, rest = split_params(state.params, trainable, frozen)
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        gradients, found = accumulate(loss, chosen, rest, split_batch(batch, micro_batches), key)
        total, norm = weighed_mean(found.terms), optax.tree.norm(gradients)
        finite = jnp.isfinite(total) & jnp.isfinite(norm)

        def if_finite(new, old):
            return jax.tree.map(lambda one, other: jnp.where(finite, one, other), new, old)

        updates, opt_state = optimizer.update(gradients, state.opt_state, chosen)
        params = join_params(rest, if_finite(optax.apply_updates(chosen, updates), chosen))
        missed = 1 - finite.astype(jnp.int32)
        new = TrainState(
            step=state.step + 1,
            params=params,
            opt_state=if_finite(opt_state, state.opt_state),
            key=state.key,
            skipped=state.skipped + missed,
            skipped_in_row=(state.skipped_in_row + missed) * missed,
        )
        of_parts = {name: tally.mean() for name, tally in tallies_of(found).items()}
        metrics = {"loss": total, **of_parts, "gradient_norm": norm, **norms_by_module(gradients)}
        return new, metrics | {"skipped": new.skipped, "skipped_in_row": new.skipped_in_row}

    return jax.jit(step, donate_argnums=0)


def accumulate(
    loss: LossFunction, chosen: FlatParams, rest: FlatParams, batches: Any, key: jax.Array
) -> tuple[FlatParams, LossTerms]:
    """Gradient by the trained leaves of the loss over all micro-batches [M, ...], and its terms summed over them.

    Each term is divided by what all micro-batches counted together, so that a token weighs the same in each of them.
    """
    num_micro = jax.tree.leaves(batches)[0].shape[0]
    weights: dict[str, float] = {}

    def terms_of(chosen, item):
        number, batch = item
        found = loss(join_params(rest, chosen), batch, jax.random.fold_in(key, number))
        weights.update({name: term.weight for name, term in found.terms.items()})
        tallies = {name: Tally(term.total, term.number) for name, term in found.terms.items()}
        return tallies, found.metrics

    def gradient(item, counts):
        def objective(chosen):
            tallies, metrics = terms_of(chosen, item)
            shares = {name: Term(tally.total, counts[name], weights[name]) for name, tally in tallies.items()}
            return weighed_mean(shares), (tallies, metrics)

        return jax.grad(objective, has_aux=True)(chosen)

    def count(item):
        return {name: tally.number for name, tally in terms_of(chosen, item)[0].items()}

    def add(gathered, item):
        gradients, tallies = gradient(item, counts)
        return jax.tree.map(jnp.add, gathered, gradients), tallies

    if num_micro == 1:
        item = (0, jax.tree.map(lambda leaf: leaf[0], batches))
        gradients, (tallies, metrics) = gradient(item, count(item))
    else:
        items = (jnp.arange(num_micro), batches)
        counts = jax.tree.map(lambda leaf: leaf.sum(0), jax.lax.map(count, items))
        start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), chosen)
        gradients, parts = jax.lax.scan(add, start, items)
        tallies, metrics = jax.tree.map(lambda leaf: leaf.sum(0), parts)
    return gradients, LossTerms(
        {name: Term(tally.total, tally.number, weights[name]) for name, tally in tallies.items()}, metrics
    )


def split_batch(batch: Any, num_micro: int) -> Any:
    """The batch with a leading axis of micro-batches; each leaf holds one or several rows per sample, in order.

    Raises ValueError where the samples do not divide.
    """
    named = jax.tree_util.tree_leaves_with_path(batch)
    sizes = [leaf.shape[0] for path, leaf in named if not _is_static(path)]
    if min(sizes) % num_micro:
        raise ValueError(
            f"a batch of {min(sizes)} samples in {num_micro} micro-batches: it must be a multiple "
            "(stage.micro_batches)."
        )

    def cut(path, leaf):
        if _is_static(path):
            return jnp.broadcast_to(leaf, (num_micro, *leaf.shape))
        return leaf.reshape(num_micro, -1, *leaf.shape[1:])

    return jax.tree_util.tree_map_with_path(cut, batch)


def _is_static(path: tuple[Any, ...]) -> bool:
    return bool(path) and getattr(path[0], "name", None) == STATIC_LEAF


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
    return {name: Tally(*term[:2]) for name, term in found.terms.items()} | found.metrics


def norms_by_module(gradients: FlatParams) -> dict[str, jax.Array]:
    """Norm of the gradient of every module."""
    modules = sorted({path.split("/")[0] for path in gradients})
    return {
        f"gradient_norm/{module}": optax.tree.norm(
            {path: leaf for path, leaf in gradients.items() if path.split("/")[0] == module}
        )
        for module in modules
    }
