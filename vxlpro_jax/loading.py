"""One call from a folder, an Orbax directory, a hub id or nothing (the embedded model) to a VideoXLPro.

Source: SPEC 10 for the released layout.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp

from vxlpro_jax.convert import load_params, resolve_source
from vxlpro_jax.data.tokenizer import load_tokenizer
from vxlpro_jax.infer.answer import VideoXLPro
from vxlpro_jax.models.attention import AttentionKind
from vxlpro_jax.models.kernel_check import usable_kind
from vxlpro_jax.models.presets import with_switches
from vxlpro_jax.program_cache import keep_programs

EMBEDDED = Path(__file__).parent / "assets" / "tiny"
DTYPES = ("float32", "bfloat16", "float16")


def load(
    source: str | Path | None = None,
    dtype: str | None = None,
    switches: Mapping[str, Any] | None = None,
    context_len: int | None = None,
    attention: AttentionKind = "auto",
) -> VideoXLPro:
    """A model ready to index and ask.

    source: a folder in the released layout, an Orbax directory of `vxlpro convert`, a hub id, or None for the embedded
    tiny model. dtype: working type of weights and computation; None: float32 on CPU (bfloat16 is slower there),
    bfloat16 elsewhere. switches: fields of the checkpoint's config to change, by path; the reference's own selection,
    for example, is {"selector.selector_query": "padded_row"} with ask(keep_rate=...). attention: "auto": JAX's kernels
    on GPUs and TPUs where they agree with XLA on the device at hand, which is tried at once (models/kernel_check.py);
    "xla": none; "kernel": the project's own too, which are experimental. Raises ValueError (a ConversionError names
    keys and files) for what cannot be loaded, and where "kernel" does not hold.

    Programs that are compiled from here on are kept for the next process (program_cache.py).
    """
    keep_programs()
    if dtype is None:
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    for name, value, accepted in (("dtype", dtype, DTYPES), ("attention", attention, get_args(AttentionKind))):
        if value not in accepted:
            raise ValueError(f"{name} {value!r}: one of {accepted} is accepted")
    folder = EMBEDDED if source is None else resolve_source(source)
    config, params = load_params(folder, dtype=dtype)
    config = with_switches(config, switches or {})
    if jax.default_backend() != "cpu":
        attention = usable_kind(attention, config, dtype)
    try:
        tokenizer = load_tokenizer(folder)
    except FileNotFoundError as error:
        raise ValueError(f"{folder} holds no tokenizer ({error}): copy tokenizer.json of the model there") from error
    return VideoXLPro(config, jax.device_put(params), tokenizer, jnp.dtype(dtype), context_len, attention)
