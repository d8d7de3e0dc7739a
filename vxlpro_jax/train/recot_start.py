"""Where DTS and decoder begin: at the best linear code of the training features, not at noise.

Source: ours. Each halving convolution begins as the principal components of the two tokens that it joins, the decoder's
direct map as the regression of the frames on the code; everything else adds nothing yet. Learning starts where linear
algebra ends; from random weights it has to find that first (docs/recot.md).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vxlpro_jax.models.dts import pack_frames
from vxlpro_jax.models.part_configs import DtsConfig
from vxlpro_jax.train.state import Params


def start_from_components(params: Params, features: np.ndarray, config: DtsConfig) -> Params:
    """The parameters with "dts" and "decoder" set from clips [N, t, g, g, E] of whole groups."""
    frames = np.asarray(features, np.float64).reshape(-1, *features.shape[2:])
    packed = np.asarray(pack_frames(jnp.asarray(frames, jnp.float32), config), np.float64)
    groups, time, grid, _, dim = packed.shape
    slots = packed.transpose(0, 2, 3, 1, 4).reshape(-1, time, dim)  # rows of a place, along what the DTS calls time
    dts: dict[str, Any] = dict(params["dts"])
    for stage in range(config.num_stages):
        name = f"stage_{stage}"
        basis, mean = joined_components(slots.reshape(-1, 2 * dim))
        dts[name] = _linear_stage(dts[name], basis, -mean @ basis)
        slots = ((slots.reshape(-1, 2 * dim) - mean) @ basis).reshape(len(slots), -1, dim)
    code = slots[:, 0]
    by_frame = frames.reshape(groups, time, grid, grid, dim).transpose(0, 2, 3, 1, 4).reshape(len(code), -1)
    kernel, bias = _regression(code, by_frame)
    direct = {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}
    return {**params, "dts": dts, "decoder": {**params["decoder"], "direct": direct}}


def joined_components(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Basis [2 * E, E] of the E strongest components of pairs of tokens [R, 2 * E], and their mean.

    Turned within their space so that the code comes as near as it can to the sum of the pair: channels keep what they
    meant, and none of the norm's groups holds all the variance.
    """
    dim = rows.shape[1] // 2
    mean = rows.mean(0)
    centred = rows - mean
    basis = np.linalg.eigh(centred.T @ centred)[1][:, -dim:]
    left, _, right = np.linalg.svd((centred @ basis).T @ (centred[:, :dim] + centred[:, dim:]))
    return basis @ left @ right, mean


def _linear_stage(stage: dict[str, Any], basis: np.ndarray, bias: np.ndarray) -> dict[str, Any]:
    """The stage as the map `basis` of two neighbours in time: attention adds nothing, only the two middle taps act."""
    dim = basis.shape[1]
    taps = np.zeros(stage["conv"]["kernel"].shape, np.float32)
    taps[1, 1, 1], taps[2, 1, 1] = basis[:dim], basis[dim:]
    silent = jax.tree.map(jnp.zeros_like, stage["spatial"]["proj_out"])
    conv = {"kernel": jnp.asarray(taps), "bias": jnp.asarray(bias, jnp.float32)}
    return {**stage, "spatial": {**stage["spatial"], "proj_out": silent}, "conv": conv}


def _regression(code: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    means = code.mean(0), target.mean(0)
    centred = code - means[0]
    ridge = 1e-6 * np.square(centred).sum() / centred.shape[1] * np.eye(centred.shape[1])
    kernel = np.linalg.solve(centred.T @ centred + ridge, centred.T @ (target - means[1]))
    return kernel, means[1] - means[0] @ kernel
