"""Checks of the whole model against full_model.safetensors and full_model_grads.json."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from tests.golden_modules import RULES, channels_last, config_of, empty_cache
from tests.golden_support import GoldenFile, lay_in, lay_out_tree
from vxlpro_jax.data.batching import build_rows
from vxlpro_jax.data.conversation import Prompt
from vxlpro_jax.models.presets import VideoXLProConfig
from vxlpro_jax.models.rope import rotate_rows
from vxlpro_jax.models.splice import video_positions
from vxlpro_jax.models.video_xl_pro import VideoXLProModel
from vxlpro_jax.train.losses import next_token_loss
from vxlpro_jax.types import Selection, num_kept_by_rate


@partial(jax.jit, static_argnums=0)
def _read(config: VideoXLProConfig, params, visual, batch, selection):
    """Merged rows, scores, logits. Positions are 0, 1, 2, ... also over padding, as in the reference."""

    def forward(model):
        rows, scores = model.merge(visual, batch, selection, batch.row_source.shape[1])
        positions = jnp.broadcast_to(jnp.arange(rows.valid.shape[1]), rows.valid.shape)
        return rows, scores, model.llm.logits(model.llm(rows.embeds, positions, rows.valid)[0])

    return VideoXLProModel(config).apply({"params": params}, method=forward)


@partial(jax.jit, static_argnums=(0, 1))
def _apply(config: VideoXLProConfig, method, params, *arguments):
    return VideoXLProModel(config).apply({"params": params}, *arguments, method=method)


@partial(jax.jit, static_argnums=0)
def _loss_and_grads(config: VideoXLProConfig, freeze_tower, params, pixels, batch, selection):
    """freeze_tower is a traced bool: both ways share one compiled program."""

    def loss(params):
        features = _apply(config, VideoXLProModel.encode_frames, params, pixels)
        features = jnp.where(freeze_tower, jax.lax.stop_gradient(features), features)
        visual = _apply(config, VideoXLProModel.compress, params, features, jnp.arange(len(pixels)))
        rows, _, logits = _read(config, params, visual[None], batch, selection)
        return next_token_loss(logits, rows.labels)[0].mean()

    return jax.value_and_grad(loss)(params)


class FullModel:
    """The whole model on the cases of full_model.safetensors."""

    def __init__(self, golden: GoldenFile, folder: Path):
        self.golden = golden
        weights = {}
        for shard in sorted((folder / "full_model_state").glob("*.safetensors")):
            weights |= load_file(shard)
        self.config = config_of(golden.cfg, tied="lm_head.weight" not in weights)
        self.params = jax.tree.map(jnp.asarray, lay_in(weights, RULES))
        self.pixels = channels_last(golden["in.pixel_values"])
        self.features = _apply(self.config, VideoXLProModel.encode_frames, self.params, self.pixels)

    def encode(self, source) -> jax.Array:
        """Visual tokens of groups made of the file's frames; `source` names the frame in each place."""
        return _apply(self.config, VideoXLProModel.compress, self.params, self.features, jnp.asarray(source))

    def stamps(self, time_ids: np.ndarray) -> list[list[int]]:
        words, tokens = self.config.stamps.num_tokens, self.config.tokens_per_group
        rows = time_ids.reshape(-1, words + tokens)
        assert (rows[:, words:] == self.golden.cfg["ph"]).all()
        return rows[:, :words].tolist()

    def rows(self, input_ids, labels, mask, time_ids):
        prompts = [
            Prompt(ids[keep], lab[keep], np.zeros(int(keep.sum()), bool))
            for ids, lab, keep in zip(input_ids, labels, mask.astype(bool), strict=True)
        ]
        stamps = [[self.stamps(ids)] for ids in time_ids]
        query = self.config.selector.selector_query
        return jax.tree.map(jnp.asarray, build_rows(prompts, stamps, self.config.tokens_per_group, query))

    def selection(self, batch, rate: float) -> Selection:
        groups = (batch.video_of_group >= 0).sum(-1)
        multiple = self.config.selector.keep_multiple
        counts = [num_kept_by_rate(int(n) * self.config.tokens_per_group, rate, multiple) for n in groups]
        return Selection(num_keep=jnp.array(counts)[:, None], budget=jnp.zeros(len(counts), jnp.int32))

    def run(self, visual, batch, rate: float):
        """(merged rows, scores, logits), the rows cut to the longest."""
        rows, scores, logits = _read(self.config, self.params, visual, batch, self.selection(batch, rate))
        length = int(rows.valid.sum(-1).max())
        return jax.tree.map(lambda x: x[:, :length], rows), scores, logits[:, :length]

    def kept(self, rows, batch, row: int = 0) -> np.ndarray:
        first_visual = batch.text_ids.shape[1] + batch.stamp_ids[row].size
        source = np.asarray(rows.source[row])
        return (source[source >= first_visual] - first_visual).astype(np.int32)

    def video_sequence(self, visual, batch) -> np.ndarray:
        table = np.asarray(self.params["llm"]["embed_tokens"]["embedding"])
        stamps = table[batch.stamp_ids]
        return np.concatenate([stamps, visual], axis=2).reshape(-1, visual.shape[-1])


def _one_row(full: FullModel, time_ids: np.ndarray):
    ids = full.golden["in.input_ids"]
    return full.rows(ids, np.full_like(ids, -100), np.ones_like(ids), [time_ids])


def check_cases(full: FullModel) -> None:
    """Cases a and b, odd and short videos, and the picture."""
    golden, size = full.golden, full.config.dts.frames_per_group
    frames = np.arange(len(full.pixels))
    batch = _one_row(full, golden["in.time_ids"])
    visual = full.encode(frames)[None]
    golden.check("a.video_sequence", full.video_sequence(visual, batch))
    stamps = jnp.asarray(full.params["llm"]["embed_tokens"]["embedding"])[batch.stamp_ids]
    base = full.config.selector.rotation_base
    positions = video_positions(batch.stamp_mask, batch.video_of_group, visual.shape[2])
    sequence, positions = (jnp.concatenate(parts, axis=2) for parts in ((stamps, visual), positions))
    golden.check("a.rotated", rotate_rows(sequence, positions, base).reshape(-1, visual.shape[-1]))
    for case in "ab":
        rows, scores, logits = full.run(visual, batch, float(golden[f"{case}.rate"]))
        golden.check(f"{case}.keep", full.kept(rows, batch))
        golden.check(f"{case}.inputs_embeds", rows.embeds)
        golden.check(f"{case}.logits", logits)
    golden.check("a.scores", scores.reshape(-1))

    rate = float(golden["a.rate"])
    for case in ("odd", "short"):
        source = golden[f"{case}.frame_src"]
        assert source.max() < golden.cfg[case]
        visual = full.encode(source)[None]
        check_case(full, case, visual, rate)
    views = frames[: golden.cfg["img_patches"]][::-1]
    visual = full.encode(np.repeat(views, size))[1:][None]  # the base view is dropped (quirk 10)
    golden.check("image.video_sequence", full.video_sequence(visual, _one_row(full, golden["image.time_ids"])))
    check_case(full, "image", visual, rate)


def check_case(full: FullModel, case: str, visual, rate: float) -> None:
    batch = _one_row(full, full.golden[f"{case}.time_ids"])
    rows, scores, logits = full.run(visual, batch, rate)
    full.golden.check(f"{case}.scores", scores.reshape(-1))
    full.golden.check(f"{case}.keep", full.kept(rows, batch))
    full.golden.check(f"{case}.last_logits", logits[:, -1])


def check_greedy(full: FullModel) -> None:
    golden = full.golden
    batch = _one_row(full, golden["in.time_ids"])
    visual = full.encode(np.arange(len(full.pixels)))[None]
    steps = len(golden["greedy.ids"])
    rows, _, _ = full.run(visual, batch, float(golden["a.rate"]))
    length = rows.valid.shape[1]
    cache = empty_cache(full.config.llm, 1, length + steps)
    logits, cache = _apply(full.config, VideoXLProModel.prefill, full.params, rows.embeds, rows.valid, cache)
    chosen, seen = [], []
    for _ in range(steps):
        seen.append(np.asarray(logits[0]))
        chosen.append(int(seen[-1].argmax()))
        token = jnp.array(chosen[-1:])
        logits, cache = _apply(full.config, VideoXLProModel.decode_step, full.params, token, cache)
    golden.check("greedy.ids", np.array(chosen, np.int32))
    golden.check("greedy.logits", np.stack(seen))

    def without_cache(m, read, ids):
        embeds = jnp.concatenate([read, m.llm.embed(ids, jnp.float32)], axis=1)
        positions = jnp.arange(embeds.shape[1])[None]
        return m.llm.logits(m.llm(embeds, positions, jnp.ones(positions.shape, bool))[0])

    logits = _apply(full.config, without_cache, full.params, rows.embeds, jnp.array([chosen]))
    golden.check("greedy.logits", logits[0, length - 1 : -1])


def check_batch(full: FullModel) -> None:
    golden, size = full.golden, full.config.dts.frames_per_group
    first = full.encode(np.arange(len(full.pixels)))
    second = full.encode(np.arange(size))
    visual = jnp.zeros((2, *first.shape)).at[0].set(first).at[1, :1].set(second)
    times = [golden["in.time_ids"], golden["batch.time_ids_1"]]
    batch = full.rows(golden["batch.input_ids"], golden["batch.labels"], golden["batch.attention_mask"], times)
    rows, scores, logits = full.run(visual, batch, float(golden["a.rate"]))
    golden.check("batch.merged_attention_mask", np.asarray(rows.valid).astype(np.int32))
    golden.check("batch.merged_labels", rows.labels)
    golden.check("batch.scores_1", scores[1, :1].reshape(-1))
    golden.check("batch.keep_1", full.kept(rows, batch, 1))
    golden.check("batch.loss", next_token_loss(logits, rows.labels)[0].mean()[None])
    last = np.asarray(rows.valid).sum(-1) - 1
    golden.check("batch.last_logits", np.asarray(logits)[np.arange(2), last])


def loss_and_grads(full: FullModel, freeze_tower: bool):
    golden = full.golden
    ids = golden["in.input_ids"]
    batch = full.rows(ids, golden["train.labels"], np.ones_like(ids), [golden["in.time_ids"]])
    selection = full.selection(batch, float(golden["a.rate"]))
    return _loss_and_grads(full.config, freeze_tower, full.params, full.pixels, batch, selection)


def check_stored_gradients(full: FullModel) -> None:
    """The loss of the labelled example and the gradients that full_model.safetensors stores."""
    golden = full.golden
    loss, grads = loss_and_grads(full, freeze_tower=False)
    golden.check("train.loss", loss[None])
    by_key = lay_out_tree(grads, RULES)
    for name in golden.names("grad."):
        ours = by_key[name.removeprefix("grad.")]
        if ours.shape != golden[name].shape:  # rows around offset zero, the only ones that can be reached
            middle, reach = ours.shape[0] // 2, golden[name].shape[0] // 2
            ours = ours[middle - reach : middle + reach + 1]
        golden.check(name, ours)


def check_gradient_norms(full: FullModel, expected: dict) -> None:
    """Losses and gradient norms of full_model_grads.json, with the tower trained and frozen."""
    loss, grads = loss_and_grads(full, freeze_tower=False)
    frozen_loss, frozen_grads = loss_and_grads(full, freeze_tower=True)
    by_key, frozen = (lay_out_tree(tree, RULES) for tree in (grads, frozen_grads))
    _close("loss", float(loss), expected["loss_f32"], expected["loss_f64"])
    _close("loss_frozen_vision", float(frozen_loss), expected["loss_frozen_vision"], expected["loss_f64"])
    _check_parameter_norms(by_key, expected)
    _check_submodule_norms(by_key, frozen, expected["top_level_grad_norm"])


def _close(name: str, ours: float, single: float, double: float) -> None:
    tolerance = max(10 * abs(single - double), 1e-5 * abs(double))
    error = max(abs(ours - single), abs(ours - double))
    print(f"full_model_grads:{name}: error {error:.2e}, tolerance {tolerance:.2e}")
    assert error <= tolerance, f"full_model_grads:{name}: {ours} against {double}, tolerance {tolerance:.2e}"


def _norm(values) -> float:
    return float(np.sqrt(sum(np.square(value.astype(np.float64)).sum() for value in values)))


def _check_parameter_norms(by_key: dict, expected: dict) -> None:
    single, double = expected["per_parameter_grad_norm_f32"], expected["per_parameter_grad_norm_f64"]
    assert by_key.keys() == double.keys() == single.keys()
    for key, grad in by_key.items():
        if double[key] is None:
            assert _norm([grad]) == 0, f"{key} gets a gradient of norm {_norm([grad])}, the reference gives it none"
        else:
            _close(key, _norm([grad]), single[key], double[key])


def _check_submodule_norms(by_key: dict, frozen: dict, expected: dict) -> None:
    for part, values in expected.items():
        for run, grads in (("f32", by_key), ("frozen_vision", frozen)):
            own = [grad for key, grad in grads.items() if key.removeprefix("model.").split(".")[0] == part]
            assert own, f"no parameter of ours is under {part}"
            if values[run] is None or (values[run] == 0):
                assert _norm(own) == 0, f"{part} ({run}) gets a gradient, the reference gives it none"
            else:
                _close(f"{part} ({run})", _norm(own), values[run], values["f64"])
