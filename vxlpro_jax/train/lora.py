"""LoRA: low-rank additions to frozen kernels, put beside them and folded into them in the end.

Source: Hu et al. 2021 (arXiv 2106.09685); the paper trains all parameters, this is the cheap alternative.
"""

import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from vxlpro_jax.train.state import FlatParams, Params


@dataclass(frozen=True)
class LoraConfig:
    """rank: of the additions; 0: none, everything that is trainable is trained itself. alpha: an addition counts
    alpha / rank times. targets: names of the LLM's layers that get one."""

    rank: int
    alpha: float
    targets: tuple[str, ...]


def add_lora(params: Params, config: LoraConfig, key: jax.Array) -> Params:
    """The parameters with an addition of zero beside every targeted kernel of the LLM.

    A kernel [layers, in, out] gets {"down": [layers, in, rank], "up": [layers, rank, out], "scale": [layers]}.
    Raises ValueError for a target that the LLM does not have.
    """
    leaves = flatten_dict(params, sep="/")
    for target in config.targets:
        found = [path for path in leaves if re.fullmatch(rf"llm/layers/.*/{re.escape(target)}/kernel", path)]
        if not found:
            names = sorted({path.split("/")[-2] for path in leaves if re.fullmatch(r"llm/layers/.*/kernel", path)})
            raise ValueError(f"config.lora.targets: {target!r} is no layer of the LLM; {names} are.")
        for path in found:
            kernel = leaves[path]
            where = path.removesuffix("kernel") + "lora"
            key, used = jax.random.split(key)
            num_layers, num_in, num_out = kernel.shape
            down = jax.random.normal(used, (num_layers, num_in, config.rank), kernel.dtype)
            leaves[f"{where}/down"] = down * num_in**-0.5
            leaves[f"{where}/up"] = jnp.zeros((num_layers, config.rank, num_out), kernel.dtype)
            leaves[f"{where}/scale"] = jnp.full((num_layers,), config.alpha / config.rank, kernel.dtype)
    return unflatten_dict(leaves, sep="/")


def lora_parts(params: Params) -> tuple[str, ...]:
    """Paths of what is trained of the additions, to be named as trainable; their scales stay."""
    return tuple(path for path in flatten_dict(params, sep="/") if path.endswith(("/lora/down", "/lora/up")))


def merge_lora(params: Params) -> Params:
    """The parameters with every addition folded into its kernel, as one that knows nothing of LoRA takes them."""
    leaves: FlatParams = flatten_dict(params, sep="/")
    merged = {path: leaf for path, leaf in leaves.items() if "lora" not in path.split("/")}
    for path in leaves:
        if path.endswith("/lora/down"):
            where = path.removesuffix("/down")
            kernel = f"{where.removesuffix('lora')}kernel"
            scale = leaves[f"{where}/scale"][:, None, None]
            addition = scale * (leaves[path] @ leaves[f"{where}/up"])
            merged[kernel] = (merged[kernel] + addition).astype(merged[kernel].dtype)
    return unflatten_dict(merged, sep="/")
