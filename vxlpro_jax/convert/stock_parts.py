"""A stock SigLIP folder and a stock Qwen2.5 folder, put together into a new model whose other parts are freshly seeded.

Source: SPECs 3 and 10. The tower's last layer and pooling head are dropped
knowingly.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vxlpro_jax.convert.errors import ConversionError
from vxlpro_jax.convert.qwen2_rules import HEAD_KEY, QWEN2_DROPPED
from vxlpro_jax.convert.released_config import llm_config, vision_config
from vxlpro_jax.convert.rules import Placement, check_keys
from vxlpro_jax.convert.safetensors_io import StoredTensor, read_json, scan_folder
from vxlpro_jax.convert.siglip_rules import SIGLIP_DROPPED
from vxlpro_jax.convert.sources import CONFIG_NAME
from vxlpro_jax.convert.torch_to_jax import (
    WeightPlan,
    check_tied_head,
    check_types,
    fresh_params,
    released_placements,
    rename_keys,
)
from vxlpro_jax.convert.video_xl_pro_rules import VISION_PREFIX
from vxlpro_jax.models.part_configs import SiglipConfig
from vxlpro_jax.models.presets import PRESETS, VideoXLProConfig

FRESH_PARTS = ("dts", "projector", "selector")
_TOWER_KEYS = ("embeddings.", "encoder.", "post_layernorm.", "head.")  # as newer files start them
_STOCK_DEFAULTS = {  # what a stock config.json leaves out because it is the class's default
    "hidden_size": 768,
    "image_size": 224,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "patch_size": 16,
}


def plan_parts(llm_folder: Path, vision_folder: Path, seed: int) -> WeightPlan:
    """Check two stock folders against the model that they make together; `seed` decides the parts that neither holds.

    Raises:
        ConversionError: whatever is wrong with either, naming keys or files.
    """
    released = read_json(llm_folder / CONFIG_NAME)
    config = compose_config(released, llm_folder, vision_folder)
    placements = released_placements(config, f"{llm_folder} and {vision_folder}")
    llm = [p for p in placements if p.path.startswith("llm/")]
    tower = [p for p in placements if p.path.startswith("vision_tower/")]
    llm_tensors, storage = _scan_llm(llm_folder, llm, config)
    tower_tensors = _scan_tower(vision_folder, tower, config.vision)
    tensors = {**llm_tensors, **tower_tensors}
    fresh = fresh_params(config, FRESH_PARTS, seed)
    storage["fresh_parts_seed"] = seed
    return WeightPlan(config, [*llm, *tower], tensors, released, storage, fresh)


def compose_config(llm_values: Mapping[str, Any], llm_folder: Path, vision_folder: Path) -> VideoXLProConfig:
    """Return the switches of `video_xl_pro_3b` with the sizes of the two parts."""
    where = str(vision_folder / CONFIG_NAME)
    values = read_json(vision_folder / CONFIG_NAME)
    stated = values.get("vision_config", values)
    if not isinstance(stated, dict):
        raise ConversionError(f"{where}: vision_config = {stated!r}; an object is needed.")
    sizes = {**_STOCK_DEFAULTS, **stated}
    num_layers = sizes["num_hidden_layers"]
    if type(num_layers) is not int or num_layers < 2:
        raise ConversionError(
            f"{where}: num_hidden_layers = {num_layers!r}; at least 2 are needed, the last is dropped."
        )
    vision = vision_config(sizes, num_layers - 1, where)
    llm = llm_config(llm_values, str(llm_folder / CONFIG_NAME))
    base = PRESETS["video_xl_pro_3b"]
    return replace(
        base,
        vision=vision,
        dts=replace(base.dts, dim=vision.dim),
        projector=replace(base.projector, dim=llm.dim),
        llm=llm,
        max_context_len=min(base.max_context_len, llm_values.get("max_position_embeddings", base.max_context_len)),
    )


def _scan_llm(
    folder: Path, placements: list[Placement], config: VideoXLProConfig
) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    tensors = scan_folder(folder)
    storage: dict[str, Any] = {}
    if config.llm.tie_embeddings and HEAD_KEY in tensors:
        check_tied_head(folder, tensors)
        storage["lm_head_stored"] = True
        del tensors[HEAD_KEY]
    check_keys(placements, {key: tensor.shape for key, tensor in tensors.items()}, QWEN2_DROPPED, str(folder))
    check_types(folder, placements, tensors)
    return tensors, storage


def _scan_tower(folder: Path, placements: list[Placement], config: SiglipConfig) -> dict[str, StoredTensor]:
    def rename(key: str) -> str:
        return f"vision_model.{key}" if key.startswith(_TOWER_KEYS) else key

    found = rename_keys(folder, scan_folder(folder), rename)
    last_layer = rf"vision_model\.encoder\.layers\.{config.num_layers}\..*"
    dropped = [re.escape(VISION_PREFIX) + f"(?:{pattern})" for pattern in (*SIGLIP_DROPPED, last_layer)]
    tensors = {VISION_PREFIX + key: tensor for key, tensor in found.items()}
    try:
        check_keys(placements, {key: tensor.shape for key, tensor in tensors.items()}, dropped, str(folder))
    except ConversionError as error:
        raise ConversionError(str(error).replace(VISION_PREFIX, "")) from error
    check_types(folder, placements, tensors)
    return tensors
