"""A model of random weights, drawn where it computes: nothing comes from a disk or, but for a seed, from the host.

Source: ours. Its answers mean nothing; it is for measuring memory and speed, and for comparing working types.
"""

import zlib
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from vxlpro_jax.data.tokenizer import load_tokenizer
from vxlpro_jax.infer.answer import VideoXLPro
from vxlpro_jax.loading import EMBEDDED
from vxlpro_jax.models.presets import PRESETS, VideoXLProConfig
from vxlpro_jax.models.video_xl_pro import abstract_params

SPREAD = 0.02  # of biases and tables; norms' scales are so far from 1


def random_params(config: VideoXLProConfig, seed: int, dtype: DTypeLike) -> Any:
    """Weights that keep activations of order one: kernels by their fan-in, norms near one. Each leaf is drawn by a
    program of its own in its own type, so that beside the weights no second copy exists."""

    def drawn(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
        return _draw(key, leaf.shape, *_law(name, leaf.shape), jnp.dtype(dtype))

    return jax.tree_util.tree_map_with_path(drawn, abstract_params(config))


def _law(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """(mean, standard deviation) of a leaf; of stacked layers the first axis counts them."""
    kind = name.rsplit("/", 1)[-1]
    if kind != "kernel":
        return (1.0 if kind == "scale" else 0.0), SPREAD
    inward = 1
    for size in shape[1:-1] if "/layers/" in name else shape[:-1]:
        inward *= size
    return 0.0, inward**-0.5


@partial(jax.jit, static_argnames=("shape", "mean", "spread", "dtype"))
def _draw(key, shape: tuple[int, ...], mean: float, spread: float, dtype: Any) -> jax.Array:
    return (mean + spread * jax.random.normal(key, shape, dtype)).astype(dtype)


def measured_config(preset: str) -> VideoXLProConfig:
    """A preset as the embedded tokenizer can serve it. The 3B preset's stamps have 10 tokens with Qwen's tokenizer, 9
    with the embedded one, which writes two digits in one: here they get a digit more, and have their 10."""
    config = PRESETS[preset]
    if config.stamps.text != PRESETS["video_xl_pro_3b"].stamps.text:
        return config
    return replace(config, stamps=replace(config.stamps, text="Time {:07.1f}s:"))


def random_model(config: VideoXLProConfig, params: Any, dtype: DTypeLike, context_len: int | None = None) -> VideoXLPro:
    """A model as load() gives it, with the embedded tokenizer. The fingerprint is taken here: who loads a model waits
    for it, who asks does not."""
    model = VideoXLPro(config, params, load_tokenizer(EMBEDDED), dtype, context_len)
    assert model.fingerprint
    return model
