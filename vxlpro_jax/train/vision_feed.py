"""Batches of labelled groups for the vision stage, and how the bank is turned into cached features.

Source: ours (docs/tiny.md).
"""

from collections.abc import Callable

import jax
import numpy as np

from vxlpro_jax.data.synthetic_bank import GroupBank
from vxlpro_jax.models.video_xl_pro import VideoXLProModel
from vxlpro_jax.train.stages import VisionBatch, dts_features
from vxlpro_jax.train.state import Params

MIN_FRAMES_OF_MOTION = 2  # a mover seen in one frame alone has no direction


def vision_batches(bank: GroupBank, seed: int, batch_groups: int) -> Callable[[int], VisionBatch]:
    """step -> a batch of groups drawn at random from the bank, brightness, contrast and noise varied."""

    def make(step: int) -> VisionBatch:
        rng = np.random.default_rng([seed, step])
        return labelled_groups(bank, rng.integers(0, len(bank), batch_groups), rng)

    return make


def labelled_groups(bank: GroupBank, chosen: np.ndarray, rng: np.random.Generator | None = None) -> VisionBatch:
    """The chosen groups [N] as a batch; with rng, their pixels are varied a little."""
    pixels = bank.frames[chosen].astype(np.float32) / np.float32(127.5) - 1
    if rng is not None:
        shape = (len(chosen), 1, 1, 1, 1)
        pixels *= rng.uniform(0.85, 1.1, shape).astype(np.float32)
        pixels += rng.uniform(-0.08, 0.08, shape).astype(np.float32)
        noise = rng.standard_normal(pixels.shape, np.float32)
        pixels += noise * rng.uniform(0, 0.04, shape).astype(np.float32)
    shown = bank.shown[chosen]
    group = {name: getattr(bank, name)[chosen].astype(np.int32) for name in ("kind", "glyph", "colour")}
    moves = shown.sum(1) >= MIN_FRAMES_OF_MOTION
    direction = np.where(moves, bank.direction[chosen], -1).astype(np.int32)
    frame = {name: np.where(shown, value[:, None], -1).reshape(-1) for name, value in group.items()}
    frame["kind"] = np.where(shown, group["kind"][:, None], 0).reshape(-1)
    return VisionBatch(pixels, frame, {**group, "direction": direction})


def encode_bank(model: VideoXLProModel, params: Params, bank: GroupBank, chunk: int) -> np.ndarray:
    """DTS outputs float16 [G, g, g, E] of every group, `chunk` groups at a time (the last chunk is padded)."""
    encode = jax.jit(lambda params, pixels: dts_features(model, params, pixels)[1].astype(np.float16))
    parts = []
    for start in range(0, len(bank), chunk):
        chosen = np.minimum(np.arange(start, start + chunk), len(bank) - 1)
        parts.append(np.asarray(encode(params, labelled_groups(bank, chosen).pixels)))
    return np.concatenate(parts)[: len(bank)]
