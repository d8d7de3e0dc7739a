"""The vision tower of a model folder as a function from frames to one feature vector each.

Source: paper 3.3 (SigLIP features); the tower is that of SPEC 3, whose output the DTS reads too.
"""

import hashlib
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from vxlpro_jax.convert import load_params, resolve_source
from vxlpro_jax.data.image_transforms import to_pixels
from vxlpro_jax.loading import DTYPES, EMBEDDED
from vxlpro_jax.models.part_configs import SiglipConfig
from vxlpro_jax.models.presets import VideoXLProConfig, config_to_dict
from vxlpro_jax.models.siglip import SiglipTower

Pooling = Literal["patches", "mean"]


class FrameEncoder:
    """frames uint8 [n, S, S, 3] -> float32 [n, E].

    pooling: "patches" lays the patches' features, each of unit length, side by side, so that the cosine of two frames
    is the mean over their patches; "mean" averages them. fingerprint: of weights and sizes.
    """

    def __init__(self, config: SiglipConfig, params: Any, dtype: str, pooling: Pooling):
        self.image_size, self.dtype = config.image_size, dtype
        self.fingerprint = tower_fingerprint(config, params)
        self._params = jax.device_put(params)
        tower = SiglipTower(config)

        def encode(params: Any, frames: jax.Array) -> jax.Array:
            features = tower.apply({"params": params}, to_pixels(frames).astype(dtype)).astype(jnp.float32)
            if pooling == "mean":
                return features.mean(1)
            unit = features / jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
            return unit.reshape(len(unit), -1)

        self._encode = jax.jit(encode)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return np.asarray(self._encode(self._params, frames))


def load_encoder(source: str, dtype: str, pooling: Pooling) -> FrameEncoder:
    """The tower of the model that `source` names, empty for the embedded one; dtype empty for what suits the device.

    Raises ValueError for what cannot be loaded.
    """
    if dtype and dtype not in DTYPES:
        raise ValueError(f"config.dtype={dtype!r}: one of {', '.join(DTYPES)}, or empty, is accepted.")
    dtype = dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    config, params = load_params(resolve_source(source) if source else EMBEDDED, dtype=dtype)
    return FrameEncoder(config.vision, params["vision_tower"], dtype, pooling)


def tower_fingerprint(config: SiglipConfig | VideoXLProConfig, params: Any) -> str:
    """Identifies weights and sizes of a tower, or of a whole model."""
    digest = hashlib.blake2b(str(sorted(config_to_dict(config).items())).encode(), digest_size=16)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).view(np.uint8).data)
    return digest.hexdigest()
