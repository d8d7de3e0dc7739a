"""A model of the smallest sizes with the embedded tokenizer, and videos for it: it answers noise, but quickly.

Source: ours.
"""

from dataclasses import replace
from functools import cache

import numpy as np

from tests.small_model import SMALL, small_params
from vxlpro_jax.data.tokenizer import TextTokenizer, build_tiny_tokenizer
from vxlpro_jax.infer.answer import VideoXLPro
from vxlpro_jax.infer.video_index import VideoIndex
from vxlpro_jax.models.presets import TINY, VideoXLProConfig

CONFIG = replace(
    SMALL,
    stamps=TINY.stamps,
    llm=replace(SMALL.llm, vocab_size=TINY.llm.vocab_size),
    max_context_len=192,
    short_group="pad_last",
)
WORDS = "What is the colour of the card?"


@cache
def tokenizer() -> TextTokenizer:
    return TextTokenizer(build_tiny_tokenizer())


@cache
def askable(config: VideoXLProConfig = CONFIG) -> VideoXLPro:
    return VideoXLPro(config, small_params(config), tokenizer())


def frames(num_frames: int, seed: int = 0) -> np.ndarray:
    """uint8 [T, 12, 20, 3] of noise."""
    return np.random.default_rng(seed).integers(0, 256, (num_frames, 12, 20, 3)).astype(np.uint8)


def random_index(num_groups: int, seed: int = 0, spacing_s: float = 1.0, model: VideoXLPro | None = None) -> VideoIndex:
    """An index that no encoder made: random tokens, groups of whole length."""
    model = model or askable()
    config = model.config
    size = config.dts.frames_per_group
    rng = np.random.default_rng(seed)
    times = np.arange(num_groups * size) * spacing_s
    return VideoIndex(
        tokens=rng.standard_normal((num_groups, config.tokens_per_group, config.projector.dim)).astype(np.float32),
        group_times_s=times[::size],
        frame_times_s=times,
        frame_indices=np.arange(len(times)),
        end_s=len(times) * spacing_s,
        kind="video",
        fingerprint=model.fingerprint,
        sampling={"rule": "fps", "fps": 1 / spacing_s, "max_frames": None, "spacing_s": spacing_s},
        source={"path": f"random-{seed}.mp4"},
    )
