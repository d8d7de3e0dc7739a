"""Whether an accelerator computes what this project's programs compute in float32 on the host's processor.

Source: ours. Two comparisons: the embedded model answers questions about generated videos, and parts of a model's real
widths (few layers) are run on the same inputs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from bench.random_model import random_params
from vxlpro_jax.data.synthetic import sample_video
from vxlpro_jax.data.synthetic_questions import sample_questions, score_answer
from vxlpro_jax.data.synthetic_render import render_frames
from vxlpro_jax.infer.answer import VideoXLPro
from vxlpro_jax.infer.generate import encode_frames
from vxlpro_jax.infer.reading import PIECE_LEN, Reader, then_text
from vxlpro_jax.loading import load
from vxlpro_jax.models.kernel_check import check_kernels
from vxlpro_jax.models.presets import VideoXLProConfig
from vxlpro_jax.models.video_xl_pro import VideoXLProModel
from vxlpro_jax.types import RowPlan

SEED, NUM_VIDEOS, LENGTH_S = 20_261, 6, 64
NUM_LAYERS = 2  # of tower and language model, at real width
NUM_ROWS = PIECE_LEN + PIECE_LEN // 4  # two pieces: the second one reads a history
ROOM = 128
# Largest distance to float32 on the host, as a share of the values' norm; least shares of texts that are the same and
# of answers that are right. bfloat16 rounds by 0.4 % at every step.
BARS = {
    "float32": {"distance": 1e-3, "same": 0.97, "right": 0.9},
    "bfloat16": {"distance": 0.04, "same": 0.9, "right": 0.9},
}


class Way(NamedTuple):
    """One way to compute: where, and in which type."""

    device: Any
    dtype: DTypeLike

    @contextmanager
    def used(self) -> Iterator[None]:
        """Products of float32 are exact here: devices round their factors to fewer bits unless told not to."""
        precision = "highest" if self.dtype == jnp.float32 else None
        with jax.default_device(self.device), jax.default_matmul_precision(precision):
            yield


def compare_kernels(config: VideoXLProConfig) -> dict[str, Any]:
    """Attention's kernels on the default device, one by one, against what XLA computes there in float32; holds: whether
    they differ by rounding alone. An error of null is no number."""
    checks = check_kernels(config)
    told = [
        {**check._asdict(), "error": check.error if np.isfinite(check.error) else None, "holds": check.holds}
        for check in checks
    ]
    return {"checks": told, "holds": all(check.holds for check in checks)}


def compare(config: VideoXLProConfig, seed: int, device: Any) -> dict[str, Any]:
    """Both comparisons in both types; holds: whether all of them keep to BARS."""
    host = Way(jax.devices("cpu")[0], jnp.dtype("float32"))
    ways = {name: Way(device, jnp.dtype(name)) for name in BARS}
    config = _shallow(config)
    params = random_params(config, seed, jnp.bfloat16)  # which float32 can hold, too
    expected_answers, expected_parts = _answers(host), _parts(config, params, seed, host)
    found: dict[str, Any] = {"reference": "float32 on the host's processor", "bars": BARS}
    found["reference_right"] = expected_answers["right"]
    for name, way in ways.items():
        answers, parts = _answers(way), _parts(config, params, seed, way, expected_parts)
        same = [ours == theirs for ours, theirs in zip(answers["texts"], expected_answers["texts"], strict=True)]
        distances = {"tiny_tokens": distance(answers["tokens"], expected_answers["tokens"])}
        distances |= {part: distance(value, expected_parts[part]) for part, value in parts.items()}
        found[name] = {
            "right": answers["right"],
            "same": float(np.mean(same)),
            "questions": len(same),
            "distances": distances,
            "holds": _keeps_to(BARS[name], answers["right"], float(np.mean(same)), distances),
        }
    found["holds"] = all(found[name]["holds"] for name in ways)
    return found


def _keeps_to(bars: dict[str, float], right: float, same: float, distances: dict[str, float]) -> bool:
    is_near = all(value <= bars["distance"] for value in distances.values())  # a NaN is not
    return is_near and same >= bars["same"] and right >= bars["right"]


def distance(ours: np.ndarray, expected: np.ndarray) -> float:
    """Of two arrays, as a share of the second one's norm."""
    ours, expected = (np.asarray(values, np.float64) for values in (ours, expected))
    return float(np.linalg.norm(ours - expected) / np.linalg.norm(expected))


def _answers(way: Way) -> dict[str, Any]:
    """The embedded model's texts, the share of right ones, and the tokens of the first video."""
    with way.used():
        loaded = load(dtype=jnp.dtype(way.dtype).name)
        model = VideoXLPro(loaded.config, jax.device_put(loaded.params, way.device), loaded.tokenizer, way.dtype)
        texts, right, tokens = [], [], None
        for number in range(NUM_VIDEOS):
            video = sample_video(SEED, number, LENGTH_S)
            index = model.index(render_frames(video, np.arange(LENGTH_S)), fps=1.0)
            tokens = index.tokens if tokens is None else tokens
            questions = sample_questions(video, 1)
            for question, answer in zip(questions, model.ask(index, [q.question for q in questions]), strict=True):
                texts.append(answer.text)
                right.append(score_answer(question.kind, answer.text, question.answer))
        return {"texts": texts, "right": float(np.mean(right)), "tokens": tokens}


def _shallow(config: VideoXLProConfig) -> VideoXLProConfig:
    """The config's widths with few layers."""
    vision, llm = (replace(part, num_layers=NUM_LAYERS) for part in (config.vision, config.llm))
    return replace(config, vision=vision, llm=llm)


def _parts(
    config: VideoXLProConfig, params: Any, seed: int, way: Way, given: dict[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """What the parts of a model make of random inputs. given: the tokens that selector and language model read; None:
    those that the encoder makes here."""
    rng = np.random.default_rng(seed)
    with way.used():
        params = jax.tree.map(lambda leaf: jax.device_put(leaf, way.device).astype(way.dtype), params)
        model = VideoXLProModel(config, dtype=way.dtype)
        size = config.vision.image_size
        pixels = rng.uniform(-1, 1, (2 * config.dts.frames_per_group, size, size, 3)).astype(np.float32)
        found = {"tokens": np.asarray(encode_frames(model, params, pixels))}
        tokens = np.asarray((given or found)["tokens"]).astype(way.dtype)
        stamps = rng.integers(0, config.llm.vocab_size, (1, len(tokens), config.stamps.num_tokens))
        query = rng.standard_normal((1, config.llm.dim)).astype(np.float32)
        found["scores"] = np.asarray(_scores(model, params, tokens[None], stamps, query))
        reader = Reader(model, params, [tokens])
        plan = _plan(rng, config, len(tokens) * config.tokens_per_group)
        found["logits"] = np.asarray(reader.read(plan, ROOM))
        more = then_text(plan, rng.integers(0, config.llm.vocab_size, 9).tolist())
        found["logits_after_more"] = np.asarray(reader.read(more, ROOM))
        return found


def _plan(rng: np.random.Generator, config: VideoXLProConfig, num_tokens: int) -> RowPlan:
    """Random text around the visual tokens, over and over."""
    rows = np.arange(NUM_ROWS)
    is_text = rng.random(NUM_ROWS) < 0.1
    return RowPlan(
        ids=rng.integers(0, config.llm.vocab_size, NUM_ROWS).astype(np.int32),
        visual=np.where(is_text, -1, rows % num_tokens).astype(np.int32),
        place=np.where(is_text, 0, rows).astype(np.int32),
        score=np.where(is_text, 0, rng.random(NUM_ROWS)).astype(np.float32),
        valid=np.ones(NUM_ROWS, bool),
    )


@partial(jax.jit, static_argnames=("model",))
def _scores(model, params, tokens, stamps, query):
    arguments = (tokens, stamps, jnp.ones(stamps.shape, bool), query)
    return model.apply({"params": params}, *arguments, method=VideoXLProModel.raw_scores)
