"""Checks of single modules against their golden files, and the config that an index.json describes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from tests.golden_support import GoldenFile, lay_in
from vxlpro_jax.convert.video_xl_pro_rules import video_xl_pro_rules
from vxlpro_jax.data.image_transforms import preprocess
from vxlpro_jax.models.dts import DynamicTokenSynthesizer, HalvingConv, SpatialBlock, TemporalBlock, pack_frames
from vxlpro_jax.models.presets import VIDEO_XL_PRO_3B, VideoXLProConfig
from vxlpro_jax.models.projector import Projector, pool_grid
from vxlpro_jax.models.qwen2 import KVCache, Qwen2
from vxlpro_jax.models.rope import rotate_rows
from vxlpro_jax.models.selector import (
    QuerySelector,
    WindowAttention,
    keep_tokens,
    normalise_scores,
)
from vxlpro_jax.models.siglip import SiglipTower, resize_grid
from vxlpro_jax.types import Selection, num_kept_by_rate

RULES = video_xl_pro_rules(VIDEO_XL_PRO_3B.dts.num_stages)


def config_of(cfg: dict, tied: bool) -> VideoXLProConfig:
    """The released switches at the sizes of an index.json; nothing chosen at random."""
    base = VIDEO_XL_PRO_3B
    return replace(
        base,
        vision=replace(
            base.vision,
            image_size=cfg["img"],
            patch_size=cfg["patch"],
            dim=cfg["vh"],
            num_layers=cfg["vl"] - 1,
            num_heads=cfg["vheads"],
            mlp_dim=cfg["vmlp"],
        ),
        dts=replace(base.dts, dim=cfg["vh"]),
        projector=replace(base.projector, dim=cfg["h"]),
        selector=replace(base.selector, selection="keep_rate", selector_query="padded_row"),
        llm=replace(
            base.llm,
            vocab_size=cfg["vocab"],
            dim=cfg["h"],
            num_layers=cfg["l"],
            num_heads=cfg["heads"],
            num_kv_heads=cfg["kv"],
            head_dim=cfg["h"] // cfg["heads"],
            mlp_dim=cfg["mlp"],
            tie_embeddings=tied,
        ),
    )


def channels_last(x: np.ndarray) -> jax.Array:
    return jnp.moveaxis(jnp.asarray(x), 1, -1)


def channels_second(x) -> np.ndarray:
    return np.moveaxis(np.asarray(x), -1, 1)


def dts_params(golden: GoldenFile, path: str = "") -> dict:
    return {"params": lay_in(golden.weights(), RULES, f"dts/{path}")}


def check_attn_block3d(golden: GoldenFile, config: VideoXLProConfig) -> None:
    apply = jax.jit(SpatialBlock(config.dts).apply)
    for name in golden.names("in.x"):
        y = apply(dts_params(golden, "stage_0/spatial"), channels_last(golden[name]))
        golden.check(name.replace("in.x", "out.y"), channels_second(y))


def check_temporal_attention(golden: GoldenFile, config: VideoXLProConfig) -> None:
    apply = jax.jit(TemporalBlock(config.dts).apply)
    for name in golden.names("in.x"):
        y = apply(dts_params(golden, "stage_0/temporal"), channels_last(golden[name]))
        golden.check(name.replace("in.x", "out.y"), channels_second(y))


def check_same_pad_conv3d(golden: GoldenFile, config: VideoXLProConfig) -> None:
    params = dts_params(golden, "stage_0/conv")
    apply = jax.jit(HalvingConv(params["params"]["bias"].size).apply)
    for name in golden.names("in.x"):
        golden.check(name.replace("in.x", "out.y"), channels_second(apply(params, channels_last(golden[name]))))


def check_sae(golden: GoldenFile, config: VideoXLProConfig) -> None:
    y = jax.jit(DynamicTokenSynthesizer(config.dts).apply)(dts_params(golden), channels_last(golden["in.x"]))
    golden.check("out.y", channels_second(y)[:, :, None])


def check_projector(golden: GoldenFile, config: VideoXLProConfig) -> None:
    params = {"params": lay_in(golden.weights(), RULES, "projector")}
    golden.check("out.y", Projector(config.projector).apply(params, jnp.asarray(golden["in.x"])))


def check_pool2d(golden: GoldenFile, config: VideoXLProConfig) -> None:
    x = golden["in.x"]
    side = config.dts.grid_size
    golden.check("out.y", pool_grid(jnp.asarray(x).reshape(-1, side, side, x.shape[-1]), config.projector))


def check_interpolate(golden: GoldenFile, config: VideoXLProConfig) -> None:
    golden.check("out.y", channels_second(resize_grid(jnp.asarray(golden["in.x"]), config.dts.grid_size)))


def check_frame_packing(golden: GoldenFile, config: VideoXLProConfig) -> None:
    for name in golden.names("in."):
        if name.endswith("_src"):
            continue
        frames = channels_last(golden[name])
        is_picture = "image" in name
        views = np.repeat(np.arange(len(frames)), config.dts.frames_per_group)
        source = views if is_picture else golden[f"{name}_src"]
        packed = pack_frames(jnp.asarray(frames[source]), config.dts)
        golden.check(name.replace("in.", "out."), np.moveaxis(np.asarray(packed), -1, 1))


def check_window_time_attention(golden: GoldenFile, config: VideoXLProConfig) -> None:
    params = {"params": lay_in(golden.weights(), RULES, "selector/window_attention")}
    words, tokens = config.stamps.num_tokens, config.tokens_per_group
    rows = golden["in.x"].reshape(1, -1, words + tokens, golden["in.x"].shape[-1])
    stamps, visual = jnp.asarray(rows[:, :, :words]), jnp.asarray(rows[:, :, words:])
    mixed = WindowAttention(config.selector).apply(params, visual, stamps, jnp.ones(stamps.shape[:3], bool))
    golden.check("out.y", np.concatenate([stamps, mixed], axis=2).reshape(golden["in.x"].shape))


def check_selector(golden: GoldenFile, config: VideoXLProConfig) -> None:
    params = {"params": lay_in(golden.weights(), RULES, "selector")}
    text, visual = jnp.asarray(golden["in.text_embeds"]), jnp.asarray(golden["in.visual"])
    encoded = QuerySelector(config.selector).apply(params, text[None], method=QuerySelector.encode_query)[0]
    golden.check("out.text_mlp", encoded)
    groups = visual.reshape(-1, config.tokens_per_group, visual.shape[-1])
    raw = jnp.einsum("gpd,d->gp", groups, encoded.mean(0))
    golden.check("out.raw_scores", raw.reshape(-1))
    video = jnp.zeros((1, len(groups)), jnp.int32)
    scores = normalise_scores(raw[None], video)
    golden.check("out.scores", scores.reshape(-1))
    for name in golden.names("out.keep_"):
        count = num_kept_by_rate(visual.shape[0], float(name.split("_")[1]), config.selector.keep_multiple)
        selection = Selection(num_keep=jnp.array([[count]]), budget=jnp.array([0]))
        keep, _ = keep_tokens(scores, video, jnp.ones((1, len(groups), 1), bool), selection, config.selector)
        golden.check(name, np.flatnonzero(keep))


def check_rotary_position_embedding(golden: GoldenFile, config: VideoXLProConfig) -> None:
    base = config.selector.rotation_base
    x = jnp.asarray(golden["in.x"])
    golden.check("out.y", rotate_rows(x, jnp.arange(len(x)), base))
    far = golden["in.far_rows"]
    width = golden["out.far_y"].shape[1]
    golden.check("out.far_y", rotate_rows(jnp.ones((len(far), width)), jnp.asarray(far), base))


def check_siglip_vision(golden: GoldenFile, config: VideoXLProConfig) -> None:
    params = {"params": lay_in(golden.weights(), RULES, "vision_tower")}
    pixels = channels_last(golden["in.pixel_values"])
    golden.check("out.features", jax.jit(SiglipTower(config.vision).apply)(params, pixels))


def check_image_preprocess(golden: GoldenFile, config: VideoXLProConfig) -> None:
    for name in golden.names("in.frames"):
        pixels = preprocess(golden[name], config.vision.image_size)
        golden.check(name.replace("in.frames", "out.pixel_values"), channels_second(pixels))


def empty_cache(llm, batch: int, length: int) -> KVCache:
    shape = (llm.num_layers, batch, length, llm.num_kv_heads, llm.head_dim)
    return KVCache(jnp.zeros(shape), jnp.zeros(shape), jnp.zeros((batch, length), bool), jnp.int32(0))


def check_qwen2(golden: GoldenFile, config: VideoXLProConfig) -> None:
    params = {"params": lay_in(golden.weights(), RULES, "llm")}
    model = Qwen2(replace(config.llm, tie_embeddings="lm_head.weight" not in golden))

    @jax.jit
    def run(ids, valid, cache=None, first=0):
        def forward(m):
            positions = first + jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
            hidden, new_cache = m(m.embed(ids, jnp.float32), positions, valid, cache)
            return m.logits(hidden), new_cache

        return model.apply(params, method=forward)

    ids = jnp.asarray(golden["in.input_ids"])
    golden.check("out.logits", run(ids, jnp.ones(ids.shape, bool))[0])

    valid = golden["in.attention_mask"].astype(bool)
    padded, _ = run(jnp.asarray(golden["in.input_ids_padded"]), jnp.asarray(valid))
    meaningful = np.where(valid[..., None], padded, golden["out.logits_padded"])  # padded positions mean nothing
    golden.check("out.logits_padded", meaningful)

    steps = len(golden["out.greedy_ids"])
    logits, cache = run(ids, jnp.ones(ids.shape, bool), empty_cache(config.llm, 1, ids.shape[1] + steps))
    chosen, seen = [], []
    for step in range(steps):
        seen.append(np.asarray(logits[0, -1]))
        chosen.append(int(seen[-1].argmax()))
        logits, cache = run(jnp.array([[chosen[-1]]]), jnp.ones((1, 1), bool), cache, ids.shape[1] + step)
    golden.check("out.greedy_ids", np.array(chosen, np.int32))
    golden.check("out.greedy_logits", np.stack(seen))
    without_cache, _ = run(
        jnp.concatenate([ids, jnp.array([chosen])], axis=1), jnp.ones((1, ids.shape[1] + steps), bool)
    )
    golden.check("out.greedy_logits", without_cache[0, ids.shape[1] - 1 : -1])


CHECKS = {
    "attn_block3d": check_attn_block3d,
    "temporal_attention": check_temporal_attention,
    "same_pad_conv3d": check_same_pad_conv3d,
    "sae": check_sae,
    "projector": check_projector,
    "pool2d": check_pool2d,
    "interpolate": check_interpolate,
    "frame_packing": check_frame_packing,
    "window_time_attention": check_window_time_attention,
    "selector": check_selector,
    "rotary_position_embedding": check_rotary_position_embedding,
    "siglip_vision": check_siglip_vision,
    "image_preprocess": check_image_preprocess,
    "qwen2": check_qwen2,
}
