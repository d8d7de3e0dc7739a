"""Weights of PyTorch checkpoints as parameters of ours: planned on shapes first, then filled tensor by tensor.

Source: SPEC 10 (tied heads, shards, older and newer names of the vision tower).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from vxlpro_jax.checkpoint import aligned_empty
from vxlpro_jax.convert.errors import ConversionError, name_some
from vxlpro_jax.convert.qwen2_rules import EMBEDDING_KEY, HEAD_KEY
from vxlpro_jax.convert.released_config import STORAGE_BLOCK, config_from_released
from vxlpro_jax.convert.rules import TRANSFORMS, Placement, check_keys, lay_out
from vxlpro_jax.convert.safetensors_io import DTYPES, StoredTensor, read_into, read_json, same_bytes, scan_folder
from vxlpro_jax.convert.sources import CONFIG_NAME
from vxlpro_jax.convert.video_xl_pro_rules import VIDEO_XL_PRO_DROPPED, VISION_PREFIX, video_xl_pro_rules
from vxlpro_jax.models.presets import VideoXLProConfig
from vxlpro_jax.models.video_xl_pro import abstract_params, init_params

_VISION_INFIX = "vision_model."


@dataclass(frozen=True)
class WeightPlan:
    """A checkpoint that was checked against the model, ready to be read.

    placements: where each torch tensor goes. tensors: where each lies, by the same keys. fresh: leaves that no file
    holds, by path. released: fields of config.json to keep. storage: what the way back has to know.
    """

    config: VideoXLProConfig
    placements: list[Placement]
    tensors: Mapping[str, StoredTensor]
    released: Mapping[str, Any]
    storage: Mapping[str, Any] = field(default_factory=dict)
    fresh: Mapping[str, np.ndarray] = field(default_factory=dict)


@lru_cache(maxsize=8)
def leaf_shapes(config: VideoXLProConfig) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of every parameter of a model by its path."""
    return {path: leaf.shape for path, leaf in flatten_dict(abstract_params(config), sep="/").items()}


def plan_released(folder: Path) -> WeightPlan:
    """Check a folder of the released layout against the model that its config.json asks for.

    Raises:
        ConversionError: whatever is wrong with it, naming keys or files; no weights have been read (but a tied head's).
    """
    released = read_json(folder / CONFIG_NAME)
    config = config_from_released(released, str(folder / CONFIG_NAME))
    placements = released_placements(config, folder)
    tensors = rename_keys(folder, scan_folder(folder), released_key)
    storage: dict[str, Any] = {}
    if config.llm.tie_embeddings and HEAD_KEY in tensors:
        check_tied_head(folder, tensors)
        storage["lm_head_stored"] = True
        tensors = {key: tensor for key, tensor in tensors.items() if key != HEAD_KEY}
    check_keys(placements, {key: tensor.shape for key, tensor in tensors.items()}, VIDEO_XL_PRO_DROPPED, str(folder))
    check_types(folder, placements, tensors)
    kept = {key: value for key, value in released.items() if key != STORAGE_BLOCK}
    return WeightPlan(config, placements, tensors, kept, storage)


def released_placements(config: VideoXLProConfig, where: Any) -> list[Placement]:
    """Return where each tensor of the released layout goes; sizes that make no model raise ConversionError."""
    try:
        shapes = leaf_shapes(config)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ConversionError(f"{where}: the sizes of {CONFIG_NAME} do not make a model ({error}).") from error
    return lay_out(video_xl_pro_rules(config.dts.num_stages), shapes)


def rename_keys(
    folder: Path, tensors: Mapping[str, StoredTensor], rename: Callable[[str], str]
) -> dict[str, StoredTensor]:
    """Return the tensors under the names of the tables; two spellings of one key raise ConversionError."""
    renamed = {rename(key): tensor for key, tensor in tensors.items()}
    if len(renamed) != len(tensors):
        twice = [key for key in tensors if rename(key) != key and rename(key) in tensors]
        raise ConversionError(f"{folder}: keys that are there in both spellings: {name_some(twice)}.")
    return renamed


def released_key(key: str) -> str:
    """Return a key as the released files spell it: newer files name the tower without `vision_model.`."""
    rest = key.removeprefix(VISION_PREFIX)
    if rest == key or rest.startswith(_VISION_INFIX):
        return key
    return VISION_PREFIX + _VISION_INFIX + rest


def check_tied_head(folder: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Check that a stored head equals the embedding that it is tied to, bit for bit."""
    head, table = tensors[HEAD_KEY], tensors.get(EMBEDDING_KEY)
    if table is None or (head.shape, head.dtype) != (table.shape, table.dtype) or not same_bytes(head, table):
        raise ConversionError(
            f"{folder}: {HEAD_KEY} differs from {EMBEDDING_KEY}, but {CONFIG_NAME} says tie_word_embeddings = true; "
            "set it to false there to keep the head, or remove the head."
        )


def check_types(folder: Path, placements: list[Placement], tensors: Mapping[str, StoredTensor]) -> None:
    """Check that types are ones that we keep, and that the layers of one stacked leaf share theirs."""
    bad = [p.torch_key for p in placements if tensors[p.torch_key].dtype not in DTYPES]
    if bad:
        kinds = name_some({tensors[key].dtype for key in bad})
        raise ConversionError(f"{folder}: keys of type {kinds}: {name_some(bad)}; accepted: {', '.join(DTYPES)}.")
    first: dict[str, Placement] = {}
    for placement in placements:
        other = first.setdefault(placement.path, placement)
        types = [tensors[key.torch_key].dtype for key in (other, placement)]
        if types[0] != types[1]:
            raise ConversionError(
                f"{folder}: {other.torch_key} is {types[0]}, {placement.torch_key} is {types[1]}; "
                "the layers of a stack need one type."
            )


def leaf_types(plan: WeightPlan) -> dict[str, np.dtype]:
    """Return the stored type of every leaf by its path."""
    filled = {p.path: DTYPES[plan.tensors[p.torch_key].dtype] for p in plan.placements}
    return filled | {path: leaf.dtype for path, leaf in plan.fresh.items()}


def read_leaf(plan: WeightPlan, path: str, dtype: np.dtype | None = None) -> np.ndarray:
    """Read one leaf, its layers stacked, in its stored type or cast; peak memory is the leaf.

    Raises:
        ConversionError: a file that changed since it was checked.
    """
    kind = np.dtype(dtype or leaf_types(plan)[path])
    if path in plan.fresh:
        return plan.fresh[path].astype(kind, copy=False)
    leaf = aligned_empty(leaf_shapes(plan.config)[path], kind)
    for placement in plan.placements:
        if placement.path == path:
            target = leaf if placement.layer is None else leaf[placement.layer]
            read_into(plan.tensors[placement.torch_key], TRANSFORMS[placement.transform].to_torch(target))
    return leaf


def fresh_params(config: VideoXLProConfig, parts: tuple[str, ...], seed: int) -> dict[str, np.ndarray]:
    """Return freshly initialised leaves of some parts of the model; the others are never made."""

    def init(key: jax.Array) -> dict[str, Any]:
        params = nn.unbox(init_params(config, key))
        return {part: params[part] for part in parts}

    return {path: np.asarray(leaf) for path, leaf in flatten_dict(jax.jit(init)(jax.random.key(seed)), sep="/").items()}
