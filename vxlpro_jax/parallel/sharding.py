"""From boxed abstract parameters to shardings, and parameters born sharded.

Source: ours, on the logical partitioning of Flax Linen.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding

from vxlpro_jax.parallel.axes import Rules, resolve


def param_shardings(boxed: Any, mesh: Mesh, rules: Rules) -> Any:
    """A tree of NamedShardings for boxed abstract parameters (from jax.eval_shape of a model's init).

    Raises ValueError for a leaf that declares no axes: it would silently be replicated.
    """

    def one(path, leaf):
        if not isinstance(leaf, nn.LogicallyPartitioned):
            raise ValueError(f"parameter {jax.tree_util.keystr(path)} declares no logical axes: see parallel/axes.py")
        return NamedSharding(mesh, resolve(leaf.names, rules))

    return jax.tree_util.tree_map_with_path(one, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))


def init_sharded(init: Callable[[jax.Array], Any], key: jax.Array, mesh: Mesh, rules: Rules) -> Any:
    """Plain parameters of `init(key)`, each created on the devices that hold it."""
    shardings = param_shardings(jax.eval_shape(init, key), mesh, rules)
    return jax.jit(lambda k: nn.unbox(init(k)), out_shardings=shardings)(key)
