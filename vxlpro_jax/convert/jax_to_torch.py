"""Parameters of ours in the released PyTorch layout: the tables read backwards, one leaf in memory at a time.

Source: SPEC 10.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vxlpro_jax.convert.errors import ConversionError, name_some
from vxlpro_jax.convert.qwen2_rules import EMBEDDING_KEY, HEAD_KEY
from vxlpro_jax.convert.released_config import released_from_config
from vxlpro_jax.convert.rules import TRANSFORMS, Placement
from vxlpro_jax.convert.safetensors_io import DTYPES, write_folder
from vxlpro_jax.convert.sources import CONFIG_NAME
from vxlpro_jax.convert.torch_to_jax import leaf_shapes, released_placements
from vxlpro_jax.models.presets import VideoXLProConfig


def placements_with_head(config: VideoXLProConfig, storage: Mapping[str, Any]) -> list[Placement]:
    """Return what the released layout holds, with the head written out where the source had written out a tied one."""
    placements = released_placements(config, "this config")
    if not storage.get("lm_head_stored") or not config.llm.tie_embeddings:
        return placements
    table = next(placement for placement in placements if placement.torch_key == EMBEDDING_KEY)
    return [table._replace(torch_key=HEAD_KEY), *placements]


def write_released(
    folder: Path,
    config: VideoXLProConfig,
    read_leaf: Callable[[str], Any],
    types: Mapping[str, np.dtype],
    released: Mapping[str, Any],
    storage: Mapping[str, Any],
    shard_bytes: int,
) -> None:
    """Write shards, index and config.json into an existing folder, holding one leaf at a time.

    Args:
        folder: where to.
        config: of the model that the parameters belong to.
        read_leaf: returns a parameter, numpy's or jax's, by its path.
        types: the type to write each parameter in, by its path.
        released: fields of an older config.json to keep.
        storage: what a source held beyond the parameters, see released_config.STORAGE_BLOCK.
        shard_bytes: largest size of a shard.

    Raises:
        ConversionError: a type that the layout does not hold.
    """
    if odd := [path for path, kind in types.items() if kind not in DTYPES.values()]:
        kinds = name_some({types[path] for path in odd})
        raise ConversionError(f"parameters of type {kinds}: {name_some(odd)}; accepted: {', '.join(DTYPES)}.")
    # Leaf by leaf and not layer by layer: so each leaf is read once, and only one is held.
    order = sorted(placements_with_head(config, storage), key=lambda placement: placement.path)
    placements = {placement.torch_key: placement for placement in order}
    held: dict[str, Any] = {}

    def produce(key: str) -> np.ndarray:
        placement = placements[key]
        if placement.path not in held:
            held.clear()
            held[placement.path] = read_leaf(placement.path)
        leaf = held[placement.path]
        one = leaf if placement.layer is None else leaf[placement.layer]
        return TRANSFORMS[placement.transform].to_torch(np.asarray(jax.device_get(one)))

    entries = {key: (placement.torch_shape, types[placement.path]) for key, placement in placements.items()}
    write_folder(folder, entries, produce, shard_bytes)
    write_config(folder, config, released, storage, entries[EMBEDDING_KEY][1])


def write_config(
    folder: Path, config: VideoXLProConfig, released: Mapping[str, Any], storage: Mapping[str, Any], dtype: np.dtype
) -> None:
    """Write config.json: released fields for the reference, the block `vxlpro_jax` for us."""
    values = released_from_config(config, released, dtype.name, storage)
    (folder / CONFIG_NAME).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_leaves(leaves: Mapping[str, Any], config: VideoXLProConfig) -> None:
    """Raise ConversionError unless the leaves have the names and shapes that the config asks for."""
    needed = leaf_shapes(config)
    faults = [f"missing {path}" for path in sorted(needed.keys() - leaves.keys())]
    faults += [f"unknown {path}" for path in sorted(leaves.keys() - needed.keys())]
    faults += [
        f"{path} is {list(leaves[path].shape)} instead of {list(shape)}"
        for path, shape in needed.items()
        if path in leaves and tuple(leaves[path].shape) != tuple(shape)
    ]
    if faults:
        raise ConversionError(f"parameters do not belong to this config: {name_some(faults)}.")
