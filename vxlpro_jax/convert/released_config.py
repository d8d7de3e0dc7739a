"""config.json of the released layout and our frozen config, in both directions.

Source: SPEC 10 (fields read in the forward path), quirk 20 (rope_theta and its newer place).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vxlpro_jax.convert.errors import ConversionError
from vxlpro_jax.models.part_configs import Qwen2Config, SiglipConfig
from vxlpro_jax.models.presets import PRESETS, VideoXLProConfig, config_from_dict, config_to_dict

BLOCK = "vxlpro_jax"  # of config.json: the whole frozen config, obeyed where it is present
STORAGE_BLOCK = "vxlpro_jax_storage"  # what a file held beyond the parameters, so that the way back can write it again
_OVERRIDES = (
    "tiny_test_overrides"  # vision sizes of test models; the released config has none, its tower's name implies them
)
_RELEASED = PRESETS["video_xl_pro_3b"]

# Fields that choose a computation; where present they must hold what the code of this project computes.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_resampler_type": ("spatial_pool",),
    "mm_spatial_pool_mode": ("average", "max"),
    "mm_patch_merge_type": ("unires", "flat"),
    "mm_use_im_start_end": (False,),
    "mm_use_im_patch_token": (False,),
    "use_sliding_window": (False,),
}


def config_from_released(values: Mapping[str, Any], where: str = "config.json") -> VideoXLProConfig:
    """Return the frozen config that a config.json of the released layout means.

    The block `vxlpro_jax` is obeyed where present. Without it the switches are those of `video_xl_pro_3b`, and the
    sizes are read from the released fields.

    Raises:
        ConversionError: naming a field that is missing, of the wrong kind, or asks for something that is not supported.
    """
    try:
        if BLOCK in values:
            if not isinstance(values[BLOCK], dict):
                raise ConversionError(f"{where}: the block {BLOCK} = {values[BLOCK]!r}; an object is needed.")
            return config_from_dict(values[BLOCK])
        _check_supported(values, where)
        llm = llm_config(values, where)
        vision = _vision_from_released(values, where)
        pool = replace(
            _RELEASED.projector,
            dim=llm.dim,
            pool_stride=_whole(values, "mm_spatial_pool_stride", where, _RELEASED.projector.pool_stride),
            pool_mode=values.get("mm_spatial_pool_mode", _RELEASED.projector.pool_mode),
        )
        return replace(
            _RELEASED,
            vision=vision,
            dts=replace(_RELEASED.dts, dim=vision.dim),
            projector=pool,
            llm=llm,
            max_context_len=_whole(values, "tokenizer_model_max_length", where, _RELEASED.max_context_len),
        )
    except ConversionError:
        raise
    except ValueError as error:
        raise ConversionError(f"{where}: {error}") from error


def _check_supported(values: Mapping[str, Any], where: str) -> None:
    for field, accepted in _SUPPORTED.items():
        if field in values and values[field] not in accepted:
            names = ", ".join(map(repr, accepted))
            raise ConversionError(f"{where}: {field} = {values[field]!r} is not supported; accepted: {names}.")


def _whole(values: Mapping[str, Any], field: str, where: str, default: int | None = None) -> int:
    """Return a field that must be a positive whole number."""
    value = values.get(field, default)
    if type(value) is not int or value <= 0:
        raise ConversionError(f"{where}: {field} = {value!r}; a positive whole number is needed.")
    return value


def llm_config(values: Mapping[str, Any], where: str) -> Qwen2Config:
    """Return the language model's sizes from the fields of a Qwen2 config."""
    dim, num_heads = _whole(values, "hidden_size", where), _whole(values, "num_attention_heads", where)
    if values.get("head_dim") is None and dim % num_heads:
        raise ConversionError(f"{where}: hidden_size {dim} is no multiple of num_attention_heads {num_heads}.")
    newer = values.get("rope_parameters") or {}
    rope_base = values.get("rope_theta", newer.get("rope_theta"))
    if rope_base is None:
        raise ConversionError(f"{where}: neither rope_theta nor rope_parameters.rope_theta is there.")
    return Qwen2Config(
        vocab_size=_whole(values, "vocab_size", where),
        dim=dim,
        num_layers=_whole(values, "num_hidden_layers", where),
        num_heads=num_heads,
        num_kv_heads=_whole(values, "num_key_value_heads", where, num_heads),
        head_dim=_whole({"head_dim": values.get("head_dim") or dim // num_heads}, "head_dim", where),
        mlp_dim=_whole(values, "intermediate_size", where),
        rope_base=float(rope_base),
        norm_eps=float(values.get("rms_norm_eps", _RELEASED.llm.norm_eps)),
        tie_embeddings=bool(values.get("tie_word_embeddings", False)),
    )


def vision_config(values: Mapping[str, Any], num_layers: int, where: str) -> SiglipConfig:
    """Return the tower's sizes from the fields of a SigLIP vision config; missing ones are those of so400m."""
    act = values.get("hidden_act", "gelu_pytorch_tanh")
    if act != "gelu_pytorch_tanh":
        raise ConversionError(f"{where}: hidden_act = {act!r} is not supported; accepted: 'gelu_pytorch_tanh'.")
    return SiglipConfig(
        image_size=_whole(values, "image_size", where),
        patch_size=_whole(values, "patch_size", where),
        dim=_whole(values, "hidden_size", where),
        num_layers=num_layers,
        num_heads=_whole(values, "num_attention_heads", where),
        mlp_dim=_whole(values, "intermediate_size", where),
        norm_eps=float(values.get("layer_norm_eps", _RELEASED.vision.norm_eps)),
    )


def _vision_from_released(values: Mapping[str, Any], where: str) -> SiglipConfig:
    sizes = (values.get(_OVERRIDES) or {}).get("vision_config")
    vision = _RELEASED.vision
    if sizes is not None:
        inner = f"{where}: {_OVERRIDES}.vision_config"
        vision = vision_config(sizes, _whole(sizes, "num_hidden_layers_used", inner), inner)
    for field in ("mm_hidden_size", "mm_spatial_pool_out_channels"):
        if values.get(field, vision.dim) != vision.dim:
            raise ConversionError(f"{where}: {field} = {values[field]!r}, the vision tower is {vision.dim} wide.")
    return vision


def released_from_config(
    config: VideoXLProConfig, base: Mapping[str, Any], dtype: str, storage: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a config.json: fields of `base` that we do not know stay, those that the config decides are set.

    Args:
        config: obeyed by our loader through the block, by the reference through its fields.
        base: fields of the checkpoint that the weights came from, empty for a new one.
        dtype: name of the weights' type, e.g. "bfloat16".
        storage: what the way back has to know, kept in a block of its own.
    """
    llm, vision = config.llm, config.vision
    fields = {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava_qwen",
        "hidden_act": "silu",
        "hidden_size": llm.dim,
        "intermediate_size": llm.mlp_dim,
        "num_hidden_layers": llm.num_layers,
        "num_attention_heads": llm.num_heads,
        "num_key_value_heads": llm.num_kv_heads,
        "rms_norm_eps": llm.norm_eps,
        "rope_theta": llm.rope_base,
        "vocab_size": llm.vocab_size,
        "tie_word_embeddings": llm.tie_embeddings,
        "torch_dtype": dtype,
        "mm_hidden_size": vision.dim,
        "mm_spatial_pool_stride": config.projector.pool_stride,
        "mm_spatial_pool_mode": config.projector.pool_mode,
        "mm_spatial_pool_out_channels": vision.dim,
        "tokenizer_model_max_length": config.max_context_len,
    }
    if llm.head_dim * llm.num_heads != llm.dim:
        fields["head_dim"] = llm.head_dim
    result = {**_DEFAULTS, **base, **fields, BLOCK: config_to_dict(config)}
    result.pop(STORAGE_BLOCK, None)
    if storage:
        result[STORAGE_BLOCK] = dict(storage)
    return result


# What a checkpoint that starts here says where nothing else decides it (SPEC 10: values that the code paths need).
_DEFAULTS: dict[str, Any] = {
    "attention_dropout": 0.0,
    "image_aspect_ratio": "anyres",
    "initializer_range": 0.02,
    "max_position_embeddings": _RELEASED.max_context_len,
    "mm_patch_merge_type": "unires",
    "mm_projector_type": "mlp2x_gelu",
    "mm_resampler_type": "spatial_pool",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "tokenizer_padding_side": "right",
    "use_cache": True,
    "use_mm_proj": True,
    "use_pos_skipping": False,
    "use_sliding_window": False,
}
