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
from transformers import Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig, SiglipVisionModel

from bench.make_3b_checkpoint import random_tensor
from bench.torch_dts import TorchDts
from bench.torch_dts import pack_frames as torch_pack_frames
from bench.torch_speed import Sides
from vxlpro_jax.checkpoint import aligned_empty
from vxlpro_jax.convert.rules import TRANSFORMS
from vxlpro_jax.convert.torch_to_jax import leaf_shapes, released_placements
from vxlpro_jax.convert.video_xl_pro_rules import VISION_PREFIX
from vxlpro_jax.infer.generate import decode, prefill
from vxlpro_jax.infer.kv_cache import rewind
from vxlpro_jax.infer.token_sampler import Sampling
from vxlpro_jax.models.dts import DynamicTokenSynthesizer, pack_frames
from vxlpro_jax.models.presets import PRESETS, VideoXLProConfig
from vxlpro_jax.models.siglip import SiglipTower
from vxlpro_jax.models.video_xl_pro import VideoXLProModel
from vxlpro_jax.types import RowPlan

RELEASED = PRESETS["video_xl_pro_3b"]
SEED = 0
PROMPT_LEN, CACHE_LEN, NUM_STEPS = 512, 640, 16


def random_weights(config: VideoXLProConfig, part: str, prefix: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """One part's parameters of ours, and the same in PyTorch's layout, `prefix` taken off the released keys."""
    shapes, leaves, state = leaf_shapes(config), {}, {}
    for placement in released_placements(config, part):
        if not placement.path.startswith(f"{part}/"):
            continue
        tensor = random_tensor(placement.torch_key, placement.torch_shape, SEED)
        leaf = leaves.setdefault(placement.path, aligned_empty(shapes[placement.path], tensor.dtype))
        target = leaf if placement.layer is None else leaf[placement.layer]
        TRANSFORMS[placement.transform].to_torch(target)[...] = tensor
        state[placement.torch_key.removeprefix(prefix)] = torch.from_numpy(tensor)
    return jax.device_put(unflatten_dict(leaves, sep="/")[part]), state


def torch_tower(config: VideoXLProConfig, state: dict[str, torch.Tensor]) -> SiglipVisionModel:
    """transformers' tower without its last norm, which the features do not pass (SPEC 3)."""
    size = config.vision
    tower = SiglipVisionModel(
        SiglipVisionConfig(
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
    )
    tower.load_state_dict(state, assign=True)
    tower.post_layernorm = torch.nn.Identity()
    return tower.eval()


def torch_llm(config: VideoXLProConfig, state: dict[str, torch.Tensor]) -> Qwen2ForCausalLM:
    size = config.llm
    llm = Qwen2ForCausalLM(
        Qwen2Config(
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
    )
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


class Reading:
    """A prompt of text, read by both sides into a cache."""

    def __init__(self, num_layers: int):
        self.config = replace(RELEASED, llm=replace(RELEASED.llm, num_layers=num_layers))
        params, state = random_weights(self.config, "llm", "")
        self.params, self.model = {"llm": params}, VideoXLProModel(self.config)
        self.torch_models = both_types(torch_llm(self.config, state))
        ids = np.random.default_rng(SEED).integers(0, self.config.llm.vocab_size, (1, PROMPT_LEN))
        self.torch_ids = torch.tensor(ids)
        row = np.zeros((1, PROMPT_LEN), np.int32)
        self.plan = RowPlan(ids.astype(np.int32), row - 1, row, row.astype(np.float32), row == 0)
        self.visual = np.zeros((1, PROMPT_LEN, self.config.llm.dim), np.float32)
        self.about = f"{num_layers} of {RELEASED.llm.num_layers} layers"

    def ours(self) -> Any:
        return prefill(self.model, self.params, self.plan, self.visual, CACHE_LEN)

    def theirs(self, model: torch.nn.Module) -> Any:
        return model(input_ids=self.torch_ids, use_cache=True, logits_to_keep=1)


def prefill_prompt(num_layers: int) -> Sides:
    """Logits of the token that follows a prompt."""
    read = Reading(num_layers)
    return sides(
        f"a prompt of {PROMPT_LEN} tokens, {read.about}",
        lambda: read.ours().logits,
        [lambda model=model: read.theirs(model).logits[:, 0] for model in read.torch_models],
    )


def decode_step(num_layers: int) -> Sides:
    """The likeliest tokens after a prompt, one after the other."""
    read = Reading(num_layers)
    prefilled = read.ours()
    held = [prefilled.cache]

    def ours() -> np.ndarray:
        cache = rewind(held.pop(), PROMPT_LEN)
        chosen = decode(read.model, read.params, prefilled.logits, cache, NUM_STEPS + 1, (), Sampling(), SEED)
        ids = []
        try:
            while True:
                ids.append(next(chosen))
        except StopIteration as end:
            held.append(end.value)
        return np.stack(ids, axis=1)

    def theirs(model: torch.nn.Module, first: torch.Tensor, cache: Any) -> torch.Tensor:
        cache.crop(PROMPT_LEN)
        ids = [first]
        for _ in range(NUM_STEPS):
            logits = model(input_ids=ids[-1], past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            ids.append(logits[:, -1].argmax(-1, keepdim=True))
        return torch.cat(ids, dim=1)

    runs = []
    with torch.inference_mode():
        for model in read.torch_models:
            out = read.theirs(model)
            runs.append(partial(theirs, model, out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values))
    about = f"{NUM_STEPS} tokens after {PROMPT_LEN}, {read.about}"
    return sides(about, ours, runs)._replace(num_steps=NUM_STEPS)


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
