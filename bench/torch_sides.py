"""Both sides of each comparison with PyTorch: the same random weights and the same input, ready to be run.

Ours are the programs that a user runs; theirs are transformers' models with PyTorch's own fused attention, and for the
DTS the twin in bench/torch_dts.py. Imported only where torch is installed.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax.traverse_util import unflatten_dict
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig, SiglipVisionModel
from transformers.initialization import no_init_weights

from bench.make_3b_checkpoint import random_tensor
from bench.torch_dts import TorchDts
from bench.torch_dts import pack_frames as torch_pack_frames
from bench.torch_speed import Sides
from vxlpro_jax.checkpoint import aligned_empty
from vxlpro_jax.convert.rules import TRANSFORMS
from vxlpro_jax.convert.torch_to_jax import leaf_shapes, released_placements
from vxlpro_jax.convert.video_xl_pro_rules import VISION_PREFIX
from vxlpro_jax.infer.generate import decode, prefill
from vxlpro_jax.infer.kv_cache import allocate, rewind
from vxlpro_jax.infer.token_sampler import Sampling
from vxlpro_jax.models.dts import DynamicTokenSynthesizer, pack_frames
from vxlpro_jax.models.presets import PRESETS, VideoXLProConfig
from vxlpro_jax.models.siglip import SiglipTower
from vxlpro_jax.models.video_xl_pro import VideoXLProModel
from vxlpro_jax.types import RowPlan

RELEASED = PRESETS["video_xl_pro_3b"]
SEED = 0
NUM_DRAWN = 4_194_301  # odd: no two rows of a matrix are alike
PROMPT_LEN, CACHE_LEN, NUM_STEPS, FIRST_TOKEN = 512, 640, 8, 7


def random_weights(config: VideoXLProConfig, part: str, prefix: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """One part's parameters of ours, and the same in PyTorch's layout, `prefix` taken off the released keys."""
    shapes, leaves, state = leaf_shapes(config), {}, {}
    for placement in released_placements(config, part):
        if not placement.path.startswith(f"{part}/"):
            continue
        tensor = random_tensor(placement.torch_key, placement.torch_shape, SEED, NUM_DRAWN)
        leaf = leaves.setdefault(placement.path, aligned_empty(shapes[placement.path], tensor.dtype))
        target = leaf if placement.layer is None else leaf[placement.layer]
        TRANSFORMS[placement.transform].to_torch(target)[...] = tensor
        state[placement.torch_key.removeprefix(prefix)] = torch.from_numpy(tensor)
    return jax.device_put(unflatten_dict(leaves, sep="/")[part]), state


def torch_tower(config: VideoXLProConfig, state: dict[str, torch.Tensor]) -> SiglipVisionModel:
    """transformers' tower without its last norm, which the features do not pass (SPEC 3)."""
    size = config.vision
    sizes = SiglipVisionConfig(
        hidden_size=size.dim,
        intermediate_size=size.mlp_dim,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        image_size=size.image_size,
        patch_size=size.patch_size,
        layer_norm_eps=size.norm_eps,
        vision_use_head=False,
        attn_implementation="sdpa",
    )
    with no_init_weights():
        tower = SiglipVisionModel(sizes)
    tower.load_state_dict(state, assign=True)
    tower.post_layernorm = torch.nn.Identity()
    return tower.eval()


def torch_llm(config: VideoXLProConfig, state: dict[str, torch.Tensor]) -> Qwen2ForCausalLM:
    size = config.llm
    sizes = Qwen2Config(
        vocab_size=size.vocab_size,
        hidden_size=size.dim,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        num_key_value_heads=size.num_kv_heads,
        intermediate_size=size.mlp_dim,
        rope_parameters={"rope_type": "default", "rope_theta": size.rope_base},
        rms_norm_eps=size.norm_eps,
        tie_word_embeddings=size.tie_embeddings,
        attn_implementation="sdpa",
    )
    with no_init_weights():
        llm = Qwen2ForCausalLM(sizes)
    llm.load_state_dict(state, strict=False, assign=True)  # a tied head is not in the state
    llm.tie_weights()
    return llm.eval()


def both_types(model: torch.nn.Module) -> tuple[torch.nn.Module, torch.nn.Module]:
    return model, deepcopy(model).to(torch.bfloat16)


def siglip(num_frames: int, num_layers: int) -> Sides:
    """The tower on some frames, [T, 729, 1152]."""
    config = replace(RELEASED, vision=replace(RELEASED.vision, num_layers=num_layers))
    params, state = random_weights(config, "vision_tower", VISION_PREFIX + "vision_model.")
    side = config.vision.image_size
    pixels = np.random.default_rng(SEED).uniform(-1, 1, (num_frames, side, side, 3)).astype(np.float32)
    run = jax.jit(SiglipTower(config.vision).apply)
    given = jnp.asarray(pixels)

    def theirs(model: torch.nn.Module, given: torch.Tensor) -> torch.Tensor:
        return model(pixel_values=given).last_hidden_state

    frames = torch.tensor(pixels.transpose(0, 3, 1, 2)).contiguous()
    return sides(
        f"{num_frames} frames of {side} x {side}, {num_layers} of {RELEASED.vision.num_layers} layers",
        lambda: run({"params": params}, given),
        [partial(theirs, model, frames.to(model.dtype)) for model in both_types(torch_tower(config, state))],
    )


def dts(num_groups: int) -> Sides:
    """Features of single frames to one grid per group, packing included."""
    config = RELEASED.dts
    params, state = random_weights(RELEASED, "dts", "model.sae.")
    shape = (num_groups * config.frames_per_group, config.grid_size, config.grid_size, config.dim)
    features = np.random.default_rng(SEED).standard_normal(shape, np.float32)

    @jax.jit
    def run(params: Any, features: jax.Array) -> jax.Array:
        return DynamicTokenSynthesizer(config).apply({"params": params}, pack_frames(features, config))

    def theirs(model: torch.nn.Module, features: torch.Tensor) -> torch.Tensor:
        return model(torch_pack_frames(features, config)).permute(0, 2, 3, 1)

    twin = TorchDts(config)
    twin.load_state_dict(state)
    given, maps = jnp.asarray(features), torch.tensor(features.transpose(0, 3, 1, 2)).contiguous()
    return sides(
        f"{num_groups} groups of {config.frames_per_group} frames",
        lambda: run(params, given),
        [
            partial(theirs, model, maps.to(kind))
            for model, kind in zip(both_types(twin.eval()), (torch.float32, torch.bfloat16), strict=True)
        ],
    )


def shallow(num_layers: int) -> tuple[VideoXLProConfig, str]:
    """The released model with fewer layers in its LLM, and that in words."""
    config = replace(RELEASED, llm=replace(RELEASED.llm, num_layers=num_layers))
    return config, f"{num_layers} of {RELEASED.llm.num_layers} layers"


def prefill_prompt(num_layers: int) -> Sides:
    """Logits of the token that follows a prompt of text."""
    config, depth = shallow(num_layers)
    params, state = random_weights(config, "llm", "")
    ids = np.random.default_rng(SEED).integers(0, config.llm.vocab_size, (1, PROMPT_LEN))
    row = np.zeros(ids.shape, np.int32)
    plan = RowPlan(ids.astype(np.int32), row - 1, row, row.astype(np.float32), row == 0)
    visual = np.zeros((*ids.shape, config.llm.dim), np.float32)
    model, prompt = VideoXLProModel(config), torch.tensor(ids)
    return sides(
        f"a prompt of {PROMPT_LEN} tokens, {depth}",
        lambda: prefill(model, {"llm": params}, plan, visual, CACHE_LEN).logits,
        [
            lambda llm=llm: llm(input_ids=prompt, use_cache=True, logits_to_keep=1).logits[:, 0]
            for llm in both_types(torch_llm(config, state))
        ],
    )


def decode_step(num_layers: int) -> Sides:
    """The likeliest tokens, one after the other, after random keys and values."""
    config, depth = shallow(num_layers)
    params, state = random_weights(config, "llm", "")
    model, size = VideoXLProModel(config), config.llm
    shape = (2, num_layers, 1, PROMPT_LEN, size.num_kv_heads, size.head_dim)
    stored = np.random.default_rng(SEED).standard_normal(shape, np.float32)
    cache = allocate(size, 1, CACHE_LEN, jnp.float32)
    held = [
        cache._replace(
            keys=cache.keys.at[:, :, :PROMPT_LEN].set(stored[0]),
            values=cache.values.at[:, :, :PROMPT_LEN].set(stored[1]),
            valid=cache.valid.at[:, :PROMPT_LEN].set(True),
        )
    ]
    first = jnp.zeros((1, size.vocab_size)).at[0, FIRST_TOKEN].set(1.0)

    def ours() -> np.ndarray:
        chosen = decode(
            *(model, {"llm": params}, first, rewind(held.pop(), PROMPT_LEN)), NUM_STEPS + 1, (), Sampling(), SEED
        )
        ids = []
        try:
            while True:
                ids.append(next(chosen))
        except StopIteration as end:
            held.append(end.value)
        return np.stack(ids, axis=1)

    def theirs(llm: torch.nn.Module, cache: DynamicCache) -> torch.Tensor:
        cache.crop(PROMPT_LEN - cache.get_seq_length())
        ids = [torch.tensor([[FIRST_TOKEN]])]
        for _ in range(NUM_STEPS):
            logits = llm(input_ids=ids[-1], past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            ids.append(logits[:, -1].argmax(-1, keepdim=True))
        return torch.cat(ids, dim=1)

    def torch_cache(kind: torch.dtype) -> DynamicCache:
        filled = DynamicCache()
        for layer, (keys, values) in enumerate(torch.tensor(stored).to(kind).transpose(3, 4).transpose(0, 1)):
            filled.update(keys, values, layer)
        return filled

    runs = [partial(theirs, llm, torch_cache(llm.dtype)) for llm in both_types(torch_llm(config, state))]
    return sides(f"{NUM_STEPS} tokens after {PROMPT_LEN}, {depth}", ours, runs)._replace(num_steps=NUM_STEPS)


def sides(about: str, ours: Callable[[], Any], theirs: list[Callable[[], torch.Tensor]]) -> Sides:
    """theirs: in float32 and in bfloat16."""

    def run(one: Callable[[], torch.Tensor]) -> np.ndarray:
        with torch.inference_mode():
            return one().float().numpy()

    torch32, torch16 = (partial(run, one) for one in theirs)
    return Sides(about, lambda: np.asarray(ours()), torch32, torch16)


SIDES: dict[str, Callable[[], Sides]] = {
    "siglip_1": partial(siglip, 1, 12),
    "siglip_8": partial(siglip, 8, 2),
    "dts": partial(dts, 2),
    "prefill": partial(prefill_prompt, 4),
    "decode_step": partial(decode_step, 4),
}
