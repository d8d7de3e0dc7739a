"""From boxed abstract parameters to shardings, and parameters born sharded.

Source: ours, on the logical partitioning of Flax Linen.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding

from vxlpro_jax.parallel.axes import BATCH, Rules, resolve


def param_shardings(boxed: Any, mesh: Mesh, rules: Rules) -> Any:
    """A tree of NamedShardings for boxed abstract parameters (from jax.eval_shape of a model's init).

    Raises ValueError for a leaf that declares no axes: it would silently be replicated.
    """

    def one(path, leaf):
        if not isinstance(leaf, nn.LogicallyPartitioned):
            raise ValueError(f"parameter {jax.tree_util.keystr(path)} declares no logical axes: see parallel/axes.py")
        return NamedSharding(mesh, resolve(leaf.names, rules))

    return jax.tree_util.tree_map_with_path(one, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))


def layouts_like(tree: Any, named: Any, mesh: Mesh) -> Any:
    """NamedShardings of a tree whose leaves belong to named ones, a training state's for example.

    named: shardings by path, names joined by "/". A leaf that lies under such a path (an optimizer's moment, say) is
    laid out like it; any other stands whole on every device.
    """
    whole = NamedSharding(mesh, resolve((), ()))

    def one(path, leaf):
        names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
        found = next((named[name] for i in range(len(names)) if (name := "/".join(names[i:])) in named), whole)
        return found if len(found.spec) <= leaf.ndim else whole

    return jax.tree_util.tree_map_with_path(one, tree)


def place_batch(batch: Any, mesh: Mesh | None, rules: Rules, static: str = "width") -> Any:
    """This process's rows of a batch on the devices: each leaf's first axis as the rules say of BATCH.

    static: name of the top-level field that has no row per sample. Without a mesh everything goes to one device.
    """
    if mesh is None:
        return jax.device_put(batch)
    rows, whole = (NamedSharding(mesh, resolve(names, rules)) for names in ((BATCH,), ()))

    def one(path, leaf):
        is_static = bool(path) and getattr(path[0], "name", None) == static
        return jax.make_array_from_process_local_data(whole if is_static else rows, leaf)

    return jax.tree_util.tree_map_with_path(one, batch)


def init_sharded(init: Callable[[jax.Array], Any], key: jax.Array, mesh: Mesh, rules: Rules) -> Any:
    """Plain parameters of `init(key)`, each created on the devices that hold it."""
    shardings = param_shardings(jax.eval_shape(init, key), mesh, rules)
    return jax.jit(lambda k: nn.unbox(init(k)), out_shardings=shardings)(key)
