"""The language model's layers one by one, as views of the stacked parameters: for decoding on a CPU.

Source: ours. A step of decoding does little but read weights, and XLA for CPU copies those of each layer out of the
stack before it reads them: scanned, a step takes about four times as long (docs/performance.md).
"""

from typing import Any

import jax
import numpy as np

APART_BYTES = (
    2**23
)  # a smaller layer stays in the processor's cache with its copy, and scanning compiles one layer only


def by_layer(params: Any) -> Any:
    """The parameters with the LLM's "layers" as a tuple, which takes no memory; as they are where layers are small, and
    anywhere but in the memory of one CPU."""
    stacks = params["llm"]["layers"]
    leaves = jax.tree.leaves(stacks)
    homes = set().union(*(leaf.devices() if isinstance(leaf, jax.Array) else {None} for leaf in leaves))
    home = homes.pop()
    num_layers = len(leaves[0])
    if (
        homes
        or home is None
        or home.platform != "cpu"
        or sum(leaf.nbytes for leaf in leaves) < num_layers * APART_BYTES
    ):
        return params
    views = jax.tree.map(np.asarray, stacks)
    apart = tuple(jax.device_put(jax.tree.map(lambda view, n=n: view[n], views), home) for n in range(num_layers))
    return {**params, "llm": {**params["llm"], "layers": apart}}
