"""The tables against the golden list of all 3B keys.

Source: SPEC.md section 10; video_xl_pro_3b_keys.json was written from it.
"""

import json
import math
from pathlib import Path

from tests.convert.reference_layout import released_shapes, tiny_config
from vxlpro_jax.convert.torch_to_jax import leaf_shapes, released_placements
from vxlpro_jax.models.presets import PRESETS

GOLDEN_KEYS = json.loads((Path(__file__).parent / "video_xl_pro_3b_keys.json").read_text())
# SPEC.md section 10: parameters by the start of the key.
COUNTS = {
    "model.embed_tokens.": 311_164_928,
    "model.layers.": 2_774_771_712,
    "model.norm.": 2_048,
    "model.vision_tower.": 397_747_744,
    "model.mm_projector.": 6_557_696,
    "model.text_mlp.": 4_196_352,
    "model.WindowTimeToTokenAttention.": 16_785_408,
    "model.sae.": 93_526_272,
    "lm_head.": 311_164_928,
}


def test_golden_list_is_the_specification() -> None:
    assert len(GOLDEN_KEYS) == 911
    assert {key: tuple(shape) for key, shape in GOLDEN_KEYS.items()} == released_shapes(PRESETS["video_xl_pro_3b"])
    for prefix, count in COUNTS.items():
        assert sum(math.prod(shape) for key, shape in GOLDEN_KEYS.items() if key.startswith(prefix)) == count, prefix
    assert sum(key.startswith(tuple(COUNTS)) for key in GOLDEN_KEYS) == 911


def test_full_size_model_maps_to_exactly_these_keys() -> None:
    config = PRESETS["video_xl_pro_3b"]
    placements = released_placements(config, "3B")
    expected = {key: tuple(shape) for key, shape in GOLDEN_KEYS.items() if key != "lm_head.weight"}
    assert {p.torch_key: p.torch_shape for p in placements} == expected
    total = sum(math.prod(shape) for shape in leaf_shapes(config).values())
    assert total == sum(COUNTS.values()) - COUNTS["lm_head."]


def test_an_untied_model_has_a_head() -> None:
    shapes = {p.torch_key: p.torch_shape for p in released_placements(tiny_config(tied=False), "tiny")}
    assert shapes == released_shapes(tiny_config(tied=False))
