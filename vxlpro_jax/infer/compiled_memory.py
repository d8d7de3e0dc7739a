"""What the programs of this package need on an accelerator, from its compiler: no such device has to be there.

Source: ours (docs/limits.md).
"""

from typing import Any

import jax
import jax.numpy as jnp

from vxlpro_jax.infer.generate import _more_tokens, _Steps, encode_frames
from vxlpro_jax.infer.kv_cache import allocate
from vxlpro_jax.infer.reading import PIECE_LEN, _read_piece
from vxlpro_jax.infer.token_sampler import Sampling
from vxlpro_jax.models.attention import AttentionKind
from vxlpro_jax.models.kernel_check import has_kernel
from vxlpro_jax.models.presets import VideoXLProConfig
from vxlpro_jax.models.video_xl_pro import VideoXLProModel, abstract_params
from vxlpro_jax.parallel.targets import target_named
from vxlpro_jax.types import RowPlan

ENCODE, READ, DECODE = "encode", "read a piece", "write a token"
# Without a device there is no search for the best tiles, and the tower's products find none at all.
_OPTIONS = {("cuda", ENCODE): {"xla_gpu_enable_triton_gemm": False}}


class Compiler:
    """Compiles the programs of a model in bfloat16 for one device, and tells the bytes that they need. by_kernel: the
    programs that had an attention kernel in them."""

    def __init__(self, config: VideoXLProConfig, device: str, attention: AttentionKind = "auto"):
        """Raises ValueError for a device that is unknown or whose compiler is not installed."""
        self.config = config
        self.by_kernel: set[str] = set()
        self._model = VideoXLProModel(config, dtype=jnp.bfloat16, attention=attention)
        self._target = target_named(device)
        self._params = self._placed(abstract_params(config), jnp.bfloat16)

    def weight_bytes(self) -> int:
        return _num_bytes(self._params)

    def cache_bytes(self, num_rows: int) -> int:
        return _num_bytes(self._cache(num_rows))

    def encode_bytes(self, num_frames: int) -> int:
        """Of a batch of frames on its way to tokens, pixels counted."""
        size = self.config.vision.image_size
        pixels = self._array(num_frames, size, size, 3, dtype=jnp.float32)
        return _num_bytes(pixels) + self._beside(ENCODE, encode_frames.trace(self._model, self._params, pixels))

    def answer_bytes(self, num_rows: int) -> dict[str, int]:
        """By program: what reading a piece of so long a row, and writing a token, need beside weights and cache."""
        piece = min(PIECE_LEN, num_rows)
        ids, valid = self._array(1, piece), self._array(1, piece, dtype=bool)
        plan = RowPlan(ids, ids, ids, self._array(1, piece, dtype=jnp.float32), valid)
        visual = self._array(1, piece, self.config.projector.dim, dtype=jnp.bfloat16)
        steps = _Steps(self._array(1), self._array(1, dtype=bool), self._array(dtype=bool), self._array())
        key = self._placed(jax.eval_shape(lambda: jax.random.key(0)))
        cache, limits = self._cache(num_rows), (self._array(), self._array(2))
        start = (self._model, self._params)
        return {
            READ: self._beside(READ, _read_piece.trace(*start, plan, visual, self._array(), cache), cache),
            DECODE: self._beside(DECODE, _more_tokens.trace(*start, steps, cache, key, *limits, Sampling()), cache),
        }

    def _cache(self, num_rows: int) -> Any:
        slots = -(-num_rows // PIECE_LEN) * PIECE_LEN if num_rows > PIECE_LEN else num_rows
        return self._placed(jax.eval_shape(lambda: allocate(self.config.llm, 1, slots, jnp.bfloat16)))

    def _beside(self, name: str, traced: Any, donated: Any = ()) -> int:
        """Bytes that a program needs beside its arguments. Raises ValueError where the device has not so much, or where
        it copies what it should change in place."""
        options: Any = _OPTIONS.get((self._target.platform, name))
        with jax.sharding.use_abstract_mesh(self._target.sharding.mesh.abstract_mesh):  # kernels ask it for the device
            lowered = traced.lower(lowering_platforms=(self._target.platform,))
        if has_kernel(lowered.as_text()):
            self.by_kernel.add(name)
        try:
            found = lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise ValueError(f"to {name} the device's memory is too small: {str(error).splitlines()[0]}") from error
        memory = found.memory_analysis()
        if memory.alias_size_in_bytes < _num_bytes(donated):
            raise ValueError(f"to {name} the cache is copied, not written where it lies")
        return memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes

    def _array(self, *shape: int, dtype: Any = jnp.int32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self._target.sharding)

    def _placed(self, tree: Any, dtype: Any = None) -> Any:
        return jax.tree.map(lambda leaf: self._array(*leaf.shape, dtype=dtype or leaf.dtype), tree)


def _num_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
