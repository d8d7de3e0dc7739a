"""The released layout written down a second time, from the specification and not from the conversion tables.

Source: SPEC 10. What the converter is tested against must not be made by the converter; shards are written
by the safetensors library.
"""

import json
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

from vxlpro_jax.models.presets import PRESETS, VideoXLProConfig

TOWER = "model.vision_tower.vision_tower.vision_model."
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def tiny_config(tied: bool = True) -> VideoXLProConfig:
    """A config that loads in a moment; no two widths are equal, so that a transposed weight has another shape."""
    base = PRESETS["video_xl_pro_3b"]
    return replace(
        base,
        vision=replace(base.vision, image_size=30, patch_size=14, dim=32, num_layers=2, num_heads=4, mlp_dim=40),
        dts=replace(base.dts, dim=32),
        projector=replace(base.projector, dim=24),
        llm=replace(
            base.llm,
            vocab_size=50,
            dim=24,
            num_layers=3,
            num_heads=4,
            num_kv_heads=2,
            head_dim=6,
            mlp_dim=36,
            tie_embeddings=tied,
        ),
        max_context_len=512,
    )


def _linear(name: str, out_dim: int, in_dim: int, ones: int = 0) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out_dim, in_dim, *(1,) * ones), f"{name}.bias": (out_dim,)}


def llm_shapes(config: VideoXLProConfig) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the language model, the head included."""
    c = config.llm
    kv = c.num_kv_heads * c.head_dim
    shapes = {"model.embed_tokens.weight": (c.vocab_size, c.dim), "lm_head.weight": (c.vocab_size, c.dim)}
    for i in range(c.num_layers):
        layer = f"model.layers.{i}."
        shapes |= _linear(layer + "self_attn.q_proj", c.num_heads * c.head_dim, c.dim)
        shapes |= _linear(layer + "self_attn.k_proj", kv, c.dim) | _linear(layer + "self_attn.v_proj", kv, c.dim)
        shapes[layer + "self_attn.o_proj.weight"] = (c.dim, c.num_heads * c.head_dim)
        shapes[layer + "mlp.gate_proj.weight"] = shapes[layer + "mlp.up_proj.weight"] = (c.mlp_dim, c.dim)
        shapes[layer + "mlp.down_proj.weight"] = (c.dim, c.mlp_dim)
        shapes[layer + "input_layernorm.weight"] = shapes[layer + "post_attention_layernorm.weight"] = (c.dim,)
    return shapes | {"model.norm.weight": (c.dim,)}


def tower_shapes(config: VideoXLProConfig, prefix: str = TOWER, more_layers: int = 0) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the vision tower; a stock one has a layer more."""
    c = config.vision
    grid = c.image_size // c.patch_size
    shapes: dict[str, tuple[int, ...]] = {
        prefix + "embeddings.patch_embedding.weight": (c.dim, 3, c.patch_size, c.patch_size),
        prefix + "embeddings.patch_embedding.bias": (c.dim,),
        prefix + "embeddings.position_embedding.weight": (grid**2, c.dim),
        prefix + "post_layernorm.weight": (c.dim,),
        prefix + "post_layernorm.bias": (c.dim,),
    }
    for i in range(c.num_layers + more_layers):
        layer = f"{prefix}encoder.layers.{i}."
        for name in "qkv":
            shapes |= _linear(f"{layer}self_attn.{name}_proj", c.dim, c.dim)
        shapes |= _linear(layer + "self_attn.out_proj", c.dim, c.dim)
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{layer}{norm}.weight": (c.dim,), f"{layer}{norm}.bias": (c.dim,)}
        shapes |= _linear(layer + "mlp.fc1", c.mlp_dim, c.dim) | _linear(layer + "mlp.fc2", c.dim, c.mlp_dim)
    return shapes


def released_shapes(config: VideoXLProConfig) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the whole model, the head included."""
    wide, dim = config.llm.dim, config.vision.dim
    shapes = llm_shapes(config) | tower_shapes(config)
    shapes |= _linear("model.mm_projector.0", wide, dim) | _linear("model.mm_projector.2", wide, wide)
    shapes |= _linear("model.text_mlp.0", wide, wide)
    for name in ("q", "k", "v", "out"):
        shapes |= _linear(f"model.WindowTimeToTokenAttention.{name}_proj", wide, wide)
    sae = "model.sae.encoder."
    shapes["model.sae.temporal_encoding"] = (4, dim)
    for i in (0, 3):
        for name in ("q", "k", "v", "proj_out"):
            shapes |= _linear(f"{sae}{i}.{name}", dim, dim, ones=3)
    for i in (1, 4):
        shapes |= _linear(f"{sae}{i}.qkv", 3 * dim, dim, ones=1) | _linear(f"{sae}{i}.proj_out", dim, dim, ones=1)
        for name in "kv":
            shapes[f"{sae}{i}.relative_position_{name}.embeddings_table"] = (129, dim)
    for i in (0, 1, 3, 4):
        shapes |= {f"{sae}{i}.norm.weight": (dim,), f"{sae}{i}.norm.bias": (dim,)}
    for i in (2, 5):
        shapes |= {f"{sae}{i}.conv.weight": (dim, dim, 3, 3, 3), f"{sae}{i}.conv.bias": (dim,)}
    return shapes


def random_state(shapes: dict[str, tuple[int, ...]], dtype: str = "float32", seed: int = 0) -> dict[str, np.ndarray]:
    """Distinct random values for every key."""
    rng = np.random.default_rng(seed)
    return {key: rng.standard_normal(shape).astype(DTYPES[dtype]) for key, shape in shapes.items()}


def released_fields(config: VideoXLProConfig, **changes: object) -> dict:
    """A config.json as the reference writes it for a test model, without anything of ours."""
    c, v = config.llm, config.vision
    fields = {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava_qwen",
        "hidden_act": "silu",
        "hidden_size": c.dim,
        "intermediate_size": c.mlp_dim,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "vocab_size": c.vocab_size,
        "tie_word_embeddings": c.tie_embeddings,
        "mm_hidden_size": v.dim,
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": "spatial_pool",
        "mm_spatial_pool_stride": 2,
        "mm_spatial_pool_mode": "average",
        "mm_spatial_pool_out_channels": v.dim,
        "mm_patch_merge_type": "unires",
        "tokenizer_model_max_length": config.max_context_len,
        "eos_token_id": 7,
        "a_field_that_nobody_reads": {"deep": [1, 2]},
        "tiny_test_overrides": {
            "vision_config": {
                "hidden_act": "gelu_pytorch_tanh",
                "hidden_size": v.dim,
                "image_size": v.image_size,
                "intermediate_size": v.mlp_dim,
                "layer_norm_eps": 1e-6,
                "num_attention_heads": v.num_heads,
                "num_hidden_layers_used": v.num_layers,
                "patch_size": v.patch_size,
            }
        },
    }
    return fields | changes


def write_shards(folder: Path, state: dict[str, np.ndarray], num_shards: int = 1) -> None:
    """Write a state dict with the safetensors library, with an index if there are several shards."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = list(state)
    if num_shards == 1:
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        return
    weight_map = {}
    for number in range(num_shards):
        name = f"model-{number + 1:05d}-of-{num_shards:05d}.safetensors"
        part = {key: state[key] for key in keys[number::num_shards]}
        save_file(part, folder / name, {"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_released(
    folder: Path, config: VideoXLProConfig, state: dict[str, np.ndarray], num_shards: int = 1, **changes: object
) -> Path:
    """Write a folder of the released layout; returns it."""
    write_shards(folder, state, num_shards)
    (folder / "config.json").write_text(json.dumps(released_fields(config, **changes)))
    return folder


def read_state(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of a folder, read by the safetensors library."""
    state: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.safetensors")):
        state |= load_file(path)
    return state


def assert_same_state(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Same keys, and per key the same shape, type and bytes."""
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert (found[key].shape, found[key].dtype) == (tensor.shape, tensor.dtype), key
        assert found[key].tobytes() == tensor.tobytes(), key
