"""Conversion table of the whole Video-XL-Pro model in the released layout, put together from its parts' tables.

Source: SPEC 10. The value projection of the window attention is kept, although nothing uses it.
"""

from vxlpro_jax.convert.qwen2_rules import QWEN2_DROPPED, QWEN2_RULES
from vxlpro_jax.convert.rules import Rule, norm_with_bias, with_bias
from vxlpro_jax.convert.siglip_rules import SIGLIP_RULES

_MODULES_PER_STAGE = 3  # in the reference: spatial, temporal, convolution


def _stage(stage: int, first: int) -> tuple[Rule, ...]:
    """Return the rules of one DTS stage, whose three modules are numbered from `first` in the reference."""
    spatial, temporal = f"stage_{stage}/spatial", f"stage_{stage}/temporal"
    table = f"encoder.{first + 1}.relative_position"
    return (
        *norm_with_bias(f"encoder.{first}.norm", f"{spatial}/norm"),
        *with_bias(f"encoder.{first}.q", f"{spatial}/q", "pointwise_3d"),
        *with_bias(f"encoder.{first}.k", f"{spatial}/k", "pointwise_3d"),
        *with_bias(f"encoder.{first}.v", f"{spatial}/v", "pointwise_3d"),
        *with_bias(f"encoder.{first}.proj_out", f"{spatial}/proj_out", "pointwise_3d"),
        *norm_with_bias(f"encoder.{first + 1}.norm", f"{temporal}/norm"),
        *with_bias(f"encoder.{first + 1}.qkv", f"{temporal}/qkv", "pointwise_1d"),
        Rule(f"{table}_k.embeddings_table", f"{temporal}/relative_position_k", "same"),
        Rule(f"{table}_v.embeddings_table", f"{temporal}/relative_position_v", "same"),
        *with_bias(f"encoder.{first + 1}.proj_out", f"{temporal}/proj_out", "pointwise_1d"),
        *with_bias(f"encoder.{first + 2}.conv", f"stage_{stage}/conv", "conv_3d"),
    )


def dts_rules(num_stages: int) -> tuple[Rule, ...]:
    """Return the table of a DTS; each stage halves time, the released model has two."""
    stages = (rule for stage in range(num_stages) for rule in _stage(stage, _MODULES_PER_STAGE * stage))
    return (Rule("temporal_encoding", "temporal_encoding", "same"), *stages)


PROJECTOR_RULES: tuple[Rule, ...] = (*with_bias("0", "fc1", "linear"), *with_bias("2", "fc2", "linear"))

SELECTOR_RULES: tuple[Rule, ...] = (
    *with_bias("text_mlp.0", "text_mlp", "linear"),
    *with_bias("WindowTimeToTokenAttention.q_proj", "window_attention/q_proj", "linear"),
    *with_bias("WindowTimeToTokenAttention.k_proj", "window_attention/k_proj", "linear"),
    *with_bias("WindowTimeToTokenAttention.v_proj", "window_attention/v_proj", "linear"),
    *with_bias("WindowTimeToTokenAttention.out_proj", "window_attention/out_proj", "linear"),
)

VISION_PREFIX = "model.vision_tower.vision_tower."  # of the released keys; then "vision_model.", which newer files lack


def video_xl_pro_rules(num_stages: int) -> tuple[Rule, ...]:
    """Return the whole table in the released names, for a DTS of `num_stages` stages."""
    parts = (  # table, prefix of the torch keys, place in our tree
        (QWEN2_RULES, "", "llm/"),
        (SIGLIP_RULES, VISION_PREFIX + "vision_model.", "vision_tower/"),
        (dts_rules(num_stages), "model.sae.", "dts/"),
        (PROJECTOR_RULES, "model.mm_projector.", "projector/"),
        (SELECTOR_RULES, "model.", "selector/"),
    )
    return tuple(rule.under(torch_prefix, place) for table, torch_prefix, place in parts for rule in table)


VIDEO_XL_PRO_DROPPED: tuple[str, ...] = (
    *QWEN2_DROPPED,
    r"model\.vision_tower\.vision_tower\.vision_model\.embeddings\.position_ids",
)
