"""Our tower and language model beside transformers' own, and checkpoints that either side loads from the other.

Source: SPEC.md sections 3, 9.8 and 10. Runs under `make parity`, with torch.
"""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2Config as TorchQwen2Config
from transformers import Qwen2ForCausalLM, SiglipVisionConfig, SiglipVisionModel

from vxlpro_jax.convert import convert, load_params, save_params_as
from vxlpro_jax.convert.torch_to_jax import fresh_params
from vxlpro_jax.models.presets import PRESETS, VideoXLProConfig
from vxlpro_jax.models.qwen2 import Qwen2
from vxlpro_jax.models.siglip import SiglipTower

PARTS = ("vision_tower", "dts", "projector", "selector", "llm")
TOWER_PREFIX = "model.vision_tower.vision_tower.vision_model."
TOLERANCE = 2e-5  # relative to the largest value; both sides are float32


def small_config(tied: bool) -> VideoXLProConfig:
    """Small sizes in which no two widths agree; the picture has pixels left over at the border."""
    base = PRESETS["video_xl_pro_3b"]
    llm = replace(
        base.llm,
        vocab_size=90,
        dim=48,
        num_layers=3,
        num_heads=6,
        num_kv_heads=2,
        head_dim=8,
        mlp_dim=100,
        tie_embeddings=tied,
    )
    vision = replace(base.vision, image_size=45, patch_size=14, dim=32, num_layers=3, num_heads=4, mlp_dim=72)
    return replace(
        base, vision=vision, llm=llm, dts=replace(base.dts, dim=32), projector=replace(base.projector, dim=48)
    )


def torch_llm(config: VideoXLProConfig) -> Qwen2ForCausalLM:
    """Return transformers' model of these sizes, with lively biases and norms (its own start at 0 and 1)."""
    c = config.llm
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        TorchQwen2Config(
            vocab_size=c.vocab_size,
            hidden_size=c.dim,
            num_hidden_layers=c.num_layers,
            num_attention_heads=c.num_heads,
            num_key_value_heads=c.num_kv_heads,
            intermediate_size=c.mlp_dim,
            rope_parameters={"rope_type": "default", "rope_theta": c.rope_base},
            rms_norm_eps=c.norm_eps,
            tie_word_embeddings=c.tie_embeddings,
            attn_implementation="eager",
        )
    )
    return enliven(model)


def torch_tower(config: VideoXLProConfig) -> SiglipVisionModel:
    """Return transformers' stock tower: one layer more than ours, with a pooling head."""
    v = config.vision
    torch.manual_seed(1)
    return enliven(
        SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=v.dim,
                intermediate_size=v.mlp_dim,
                num_hidden_layers=v.num_layers + 1,
                num_attention_heads=v.num_heads,
                image_size=v.image_size,
                patch_size=v.patch_size,
                attn_implementation="eager",
            )
        )
    )


def enliven(model: torch.nn.Module) -> torch.nn.Module:
    """Add noise to every parameter, so that none is at a value where forgetting it would not show."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def close(ours: np.ndarray, theirs: torch.Tensor) -> None:
    """Assert closeness relative to the largest value."""
    expected = theirs.detach().numpy()
    assert ours.shape == expected.shape
    error = np.abs(np.asarray(ours) - expected).max() / np.abs(expected).max()
    assert error < TOLERANCE, f"largest error {error:.2e}"


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def config(request: pytest.FixtureRequest) -> VideoXLProConfig:
    return small_config(request.param)


def test_stock_folders_saved_by_transformers_compute_the_same(config: VideoXLProConfig, tmp_path: Path) -> None:
    llm, tower = torch_llm(config), torch_tower(config)
    llm.save_pretrained(tmp_path / "qwen")
    tower.save_pretrained(tmp_path / "siglip")
    loaded, params = load_params([tmp_path / "qwen", tmp_path / "siglip"])
    assert (loaded.llm, loaded.vision) == (config.llm, config.vision)
    params = jax.device_put(params)

    ids = np.random.default_rng(0).integers(0, config.llm.vocab_size, (2, 11))
    valid = np.arange(11)[None] < np.array([[11], [7]])
    with torch.no_grad():
        theirs = llm(input_ids=torch.tensor(ids), attention_mask=torch.tensor(valid.astype(np.int64))).logits
    model, variables = Qwen2(config.llm), {"params": params["llm"]}
    rows = model.apply(variables, jnp.asarray(ids), jnp.float32, method="embed")
    positions = jnp.broadcast_to(jnp.arange(11), (2, 11))
    hidden, _ = model.apply(variables, rows, positions, jnp.asarray(valid))
    ours = np.asarray(model.apply(variables, hidden, method="logits"))
    close(ours[valid], theirs[torch.tensor(valid)])

    pixels = np.random.default_rng(1).uniform(-1, 1, (2, 45, 45, 3)).astype(np.float32)
    with torch.no_grad():
        states = tower(pixel_values=torch.tensor(pixels.transpose(0, 3, 1, 2)), output_hidden_states=True).hidden_states
    close(SiglipTower(config.vision).apply({"params": params["vision_tower"]}, jnp.asarray(pixels)), states[-2])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transformers_loads_its_parts_of_what_we_write(config: VideoXLProConfig, tmp_path: Path, dtype: str) -> None:
    flat = fresh_params(config, PARTS, seed=5)
    params: dict = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf + np.float32(0.05)
    folder = save_params_as(tmp_path / "ours", config, params, to="torch", dtype=dtype, shard_bytes=200_000)
    state: dict[str, torch.Tensor] = {}
    for shard in folder.glob("*.safetensors"):
        state |= load_file(shard)
    kind = getattr(torch, dtype)

    fields = json.loads((folder / "config.json").read_text())
    llm_config = TorchQwen2Config(**{key: fields[key] for key in fields if key not in ("model_type", "architectures")})
    llm, info = Qwen2ForCausalLM.from_pretrained(folder, config=llm_config, dtype=kind, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    others = ("model.vision_tower.", "model.sae.", "model.mm_projector.", "model.text_mlp.", "model.WindowTime")
    assert all(key.startswith(others) for key in info["unexpected_keys"])
    for key, tensor in llm.state_dict().items():
        stored = state["model.embed_tokens.weight" if key == "lm_head.weight" and key not in state else key]
        assert tensor.dtype == kind and torch.equal(tensor, stored), key
    assert llm.config.rope_parameters["rope_theta"] == config.llm.rope_base

    v = config.vision
    tower = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=v.dim,
            intermediate_size=v.mlp_dim,
            num_hidden_layers=v.num_layers,
            num_attention_heads=v.num_heads,
            image_size=v.image_size,
            patch_size=v.patch_size,
            vision_use_head=False,
        )
    ).to(kind)
    own_prefix = "vision_model." if any(key.startswith("vision_model.") for key in tower.state_dict()) else ""
    part = {
        own_prefix + key.removeprefix(TOWER_PREFIX): tensor
        for key, tensor in state.items()
        if key.startswith(TOWER_PREFIX)
    }
    tower.load_state_dict(part, strict=True)


def test_there_and_back_through_transformers(config: VideoXLProConfig, tmp_path: Path) -> None:
    llm, tower = torch_llm(config), torch_tower(config)
    llm.save_pretrained(tmp_path / "qwen")
    tower.save_pretrained(tmp_path / "siglip")
    convert([tmp_path / "qwen", tmp_path / "siglip"], tmp_path / "orbax")
    convert(tmp_path / "orbax", tmp_path / "torch", to="torch")
    state: dict[str, torch.Tensor] = {}
    for shard in (tmp_path / "torch").glob("*.safetensors"):
        state |= load_file(shard)
    for key, tensor in llm.state_dict().items():
        if key in state:
            assert torch.equal(state[key], tensor), key
    assert ("lm_head.weight" in state) == (not config.llm.tie_embeddings)
    for key, tensor in tower.state_dict().items():
        name = TOWER_PREFIX + key.removeprefix("vision_model.")
        if name in state:
            assert torch.equal(state[name], tensor), key
