"""Conversion table of the SigLIP vision tower, keys as below `vision_model.` in transformers.

Source: SPEC 10. The post layer norm is kept, although nothing uses it: the way back needs it.
"""

from vxlpro_jax.convert.rules import Rule, norm_with_bias, with_bias

_LAYER = "encoder.layers.{}."

SIGLIP_RULES: tuple[Rule, ...] = (
    *with_bias("embeddings.patch_embedding", "patch_embedding", "conv_2d"),
    Rule("embeddings.position_embedding.weight", "position_embedding/embedding", "same"),
    *norm_with_bias(_LAYER + "layer_norm1", "layers/layer_norm1"),
    *with_bias(_LAYER + "self_attn.q_proj", "layers/self_attn/q_proj", "linear"),
    *with_bias(_LAYER + "self_attn.k_proj", "layers/self_attn/k_proj", "linear"),
    *with_bias(_LAYER + "self_attn.v_proj", "layers/self_attn/v_proj", "linear"),
    *with_bias(_LAYER + "self_attn.out_proj", "layers/self_attn/out_proj", "linear"),
    *norm_with_bias(_LAYER + "layer_norm2", "layers/layer_norm2"),
    *with_bias(_LAYER + "mlp.fc1", "layers/mlp/fc1", "linear"),
    *with_bias(_LAYER + "mlp.fc2", "layers/mlp/fc2", "linear"),
    *norm_with_bias("post_layernorm", "post_layernorm"),
)

# Of a stock file: the pooling head, the text tower and its scale, and a buffer of old versions. The encoder layer after
# the last one used is dropped too; its number depends on the config (convert/stock_parts.py).
SIGLIP_DROPPED: tuple[str, ...] = (
    r"vision_model\.head\..*",
    r"text_model\..*",
    r"logit_scale",
    r"logit_bias",
    r"vision_model\.embeddings\.position_ids",
)
