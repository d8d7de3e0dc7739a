"""The twin that the DTS is timed against computes what ours does, released quirks included, from the same weights.

Source: SPEC 6, 7 and 10. Runs under `make parity`, with torch.
"""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bench.torch_dts import TorchDts
from bench.torch_dts import pack_frames as torch_pack_frames
from bench.torch_sides import random_weights
from vxlpro_jax.models.dts import DynamicTokenSynthesizer, pack_frames
from vxlpro_jax.models.presets import PRESETS

BASE = PRESETS["video_xl_pro_3b"]
CONFIG = replace(
    BASE,
    vision=replace(BASE.vision, dim=48, num_heads=4, mlp_dim=72, num_layers=2),
    dts=replace(BASE.dts, dim=48, grid_size=6, num_norm_groups=8),
)


@pytest.mark.parametrize(
    ("switches", "is_same"), [({}, True), ({"relative_term": "textbook"}, False), ({"frame_packing": "paper"}, False)]
)
def test_the_twin_is_the_released_dts(switches, is_same):
    params, state = random_weights(CONFIG, "dts", "model.sae.")
    twin = TorchDts(CONFIG.dts)
    twin.load_state_dict(state)
    features = np.random.default_rng(1).standard_normal((8, 6, 6, 48), np.float32)
    with torch.inference_mode():
        packed = torch_pack_frames(torch.tensor(features.transpose(0, 3, 1, 2)).contiguous(), CONFIG.dts)
        theirs = twin(packed).permute(0, 2, 3, 1).numpy()
    config = replace(CONFIG.dts, **switches)
    ours = DynamicTokenSynthesizer(config).apply({"params": params}, pack_frames(jnp.asarray(features), config))
    error = np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()
    assert error < 2e-5 if is_same else error > 1e-2, f"largest error {error:.2e}"
