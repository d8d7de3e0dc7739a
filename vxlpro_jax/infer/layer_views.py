"""The language model's layers one by one, as views of the stacked parameters: for decoding on a CPU.

Source: ours. A step of decoding does little but read weights, and XLA for CPU copies those of each layer out of the
stack before it reads them: scanned, a step takes about four times as long (docs/performance.md).
"""

from typing import Any

import jax
import numpy as np

# A smaller layer stays in the processor's cache with its copy, and scanning compiles one layer only.
APART_BYTES = 2**23


def by_layer(params: Any) -> Any:
    """The parameters with the LLM's "layers" as a tuple, which takes no memory; as they are where layers are small, and
    anywhere but in the memory of one CPU."""
    stacks = params["llm"]["layers"]
    leaves = jax.tree.leaves(stacks)
    num_layers, num_bytes = len(leaves[0]), sum(leaf.nbytes for leaf in leaves)
    home = _one_cpu(leaves)
    if home is None or num_bytes < num_layers * APART_BYTES:
        return params
    if not leaves[0].committed:  # nor are the views to be: jit would compile once for these and once for those
        home = None
    views = jax.tree.map(np.asarray, stacks)
    apart = tuple(jax.device_put(jax.tree.map(lambda view, n=n: view[n], views), home) for n in range(num_layers))
    return {**params, "llm": {**params["llm"], "layers": apart}}


def _one_cpu(leaves: list[Any]) -> jax.Device | None:
    """The CPU whose memory holds all of them, if one does."""
    homes = {device for leaf in leaves for device in (leaf.devices() if isinstance(leaf, jax.Array) else (None,))}
    home = homes.pop()
    return None if homes or home is None or home.platform != "cpu" else home
