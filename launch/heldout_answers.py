"""Real answers to held-out questions during training, beside the truth.

Source: ours (docs/training.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from vxlpro_jax.config import HeldoutConfig
from vxlpro_jax.data.mixture import Mixture
from vxlpro_jax.data.records import Record
from vxlpro_jax.data.tokenizer import TextTokenizer
from vxlpro_jax.infer.answer import VideoXLPro
from vxlpro_jax.models.presets import VideoXLProConfig
from vxlpro_jax.train.state import Params


@dataclass(frozen=True)
class Asked:
    """A question about a video, and its true answer."""

    video: str
    question: str
    truth: str


def draw_records(mixture: Mixture, number: int, seed: int) -> list[Asked]:
    """Questions about videos of a mixture, drawn by the seed; fewer where it has not so many."""
    order = np.random.default_rng([seed, 77]).permutation(len(mixture))
    found: list[Asked] = []
    for index in order:
        if len(found) >= number:
            break
        record = mixture.record(int(index))
        if isinstance(record, Record) and record.media_kind == "video" and record.turns:
            question, truth = record.turns[0]
            found.append(Asked(record.media[0], question, truth))
    return found


def answer_records(
    sizes: VideoXLProConfig,
    params: Params,
    tokenizer: TextTokenizer,
    dtype: str,
    asked: Sequence[Asked],
    config: HeldoutConfig,
) -> dict[str, Any]:
    """Share of answers that are the truth but for case and surrounding space, and all answers as text."""
    model = VideoXLPro(sizes, params, tokenizer, jnp.dtype(dtype))
    lines, right = [], 0
    indexes = {video: model.index(video, max_frames=config.max_frames) for video in {item.video for item in asked}}
    for item in asked:
        text = model.ask(indexes[item.video], item.question, max_new_tokens=config.max_new_tokens).text
        is_right = text.strip().lower() == item.truth.strip().lower()
        right += is_right
        lines.append(f"{'=' if is_right else 'x'} {item.question} | truth: {item.truth} | answer: {text}")
    return {"right_answers": right / len(asked), "answers": "\n".join(lines)}
