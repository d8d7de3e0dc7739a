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
from vxlpro_jax.data.tokenizer import TextTokenizer
from vxlpro_jax.infer.answer import VideoXLPro
from vxlpro_jax.infer.video_index import VideoIndex
from vxlpro_jax.models.presets import VideoXLProConfig
from vxlpro_jax.train.state import Params


@dataclass(frozen=True)
class Asked:
    """A question about a video, and its true answer."""

    video: str
    question: str
    truth: str


def draw_records(mixture: Mixture, is_usable: np.ndarray, number: int, seed: int) -> list[Asked]:
    """Questions about videos of a mixture, drawn by the seed; fewer where it has not so many.

    is_usable bool [records]: what may be read at all.
    """
    order = np.random.default_rng([seed, 77]).permutation(len(mixture))
    found: list[Asked] = []
    for index in order:
        if len(found) >= number:
            break
        if not is_usable[index]:
            continue
        record = mixture.record(int(index))
        question, truth = record.turns[0]
        if record.media_kind == "video" and question:
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
    """Share of answers that are the truth but for case and surrounding space, and all answers as text.

    A question that gets no answer, for its video cannot be decoded or its logits are not finite, is told and counts for
    nothing; where none gets one, the share is NaN.
    """
    model = VideoXLPro(sizes, params, tokenizer, jnp.dtype(dtype))
    lines: list[str] = []
    verdicts: list[bool] = []
    indexes: dict[str, VideoIndex] = {}
    for item in asked:
        said = f"{item.question} | truth: {item.truth}"
        try:
            if item.video not in indexes:
                indexes[item.video] = model.index(item.video, max_frames=config.max_frames)
            text = model.ask(indexes[item.video], item.question, max_new_tokens=config.max_new_tokens).text
        except (ValueError, OSError, FloatingPointError) as error:
            lines.append(f"? {said} | cannot be answered: {error}")
            continue
        verdicts.append(text.strip().lower() == item.truth.strip().lower())
        lines.append(f"{'=' if verdicts[-1] else 'x'} {said} | answer: {text}")
    if len(verdicts) < len(asked):
        lines.append(f"{len(asked) - len(verdicts)} of {len(asked)} questions cannot be answered")
    share = sum(verdicts) / len(verdicts) if verdicts else float("nan")
    return {"right_answers": share, "answers": "\n".join(lines)}
