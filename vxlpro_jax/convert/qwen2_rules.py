"""Conversion table of the Qwen2.5 language model, keys as transformers' Qwen2ForCausalLM saves them.

Source: SPEC 10.
"""

from vxlpro_jax.convert.rules import Rule, with_bias

_LAYER = "model.layers.{}."

QWEN2_RULES: tuple[Rule, ...] = (
    Rule("model.embed_tokens.weight", "embed_tokens/embedding", "same"),
    Rule(_LAYER + "input_layernorm.weight", "layers/input_layernorm/scale", "same"),
    *with_bias(_LAYER + "self_attn.q_proj", "layers/self_attn/q_proj", "linear"),
    *with_bias(_LAYER + "self_attn.k_proj", "layers/self_attn/k_proj", "linear"),
    *with_bias(_LAYER + "self_attn.v_proj", "layers/self_attn/v_proj", "linear"),
    Rule(_LAYER + "self_attn.o_proj.weight", "layers/self_attn/o_proj/kernel", "linear"),
    Rule(_LAYER + "post_attention_layernorm.weight", "layers/post_attention_layernorm/scale", "same"),
    Rule(_LAYER + "mlp.gate_proj.weight", "layers/mlp/gate_proj/kernel", "linear"),
    Rule(_LAYER + "mlp.up_proj.weight", "layers/mlp/up_proj/kernel", "linear"),
    Rule(_LAYER + "mlp.down_proj.weight", "layers/mlp/down_proj/kernel", "linear"),
    Rule("model.norm.weight", "norm/scale", "same"),
    Rule("lm_head.weight", "lm_head/kernel", "linear", optional=True),
)

EMBEDDING_KEY = "model.embed_tokens.weight"
HEAD_KEY = "lm_head.weight"

# A buffer that old versions saved; it follows from the config.
QWEN2_DROPPED: tuple[str, ...] = (r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",)
