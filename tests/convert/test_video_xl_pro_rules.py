"""The tables against the golden list of all 3B keys.

Source: SPEC 10; video_xl_pro_3b_keys.json was written from it.
"""

import json
import math
from pathlib import Path

from tests.convert.reference_layout import released_shapes, tiny_config
from vxlpro_jax.convert.torch_to_jax import leaf_shapes, released_placements
from vxlpro_jax.convert.video_xl_pro_rules import video_xl_pro_rules
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


# How our names and the reference's differ, beyond the last part (kernel, scale, embedding are all "weight" there).
RENAMED = [
    ("vision_tower/layers/", "model.vision_tower.vision_tower.vision_model.encoder.layers.{}."),
    ("vision_tower/post_layernorm/", "model.vision_tower.vision_tower.vision_model.post_layernorm."),
    ("vision_tower/", "model.vision_tower.vision_tower.vision_model.embeddings."),
    ("dts/temporal_encoding", "model.sae.temporal_encoding"),
    ("dts/stage_0/spatial/", "model.sae.encoder.0."),
    ("dts/stage_0/temporal/", "model.sae.encoder.1."),
    ("dts/stage_0/", "model.sae.encoder.2."),
    ("dts/stage_1/spatial/", "model.sae.encoder.3."),
    ("dts/stage_1/temporal/", "model.sae.encoder.4."),
    ("dts/stage_1/", "model.sae.encoder.5."),
    ("projector/fc1/", "model.mm_projector.0."),
    ("projector/fc2/", "model.mm_projector.2."),
    ("selector/text_mlp/", "model.text_mlp.0."),
    ("selector/window_attention/", "model.WindowTimeToTokenAttention."),
    ("llm/lm_head/", "lm_head."),
    ("llm/layers/", "model.layers.{}."),
    ("llm/", "model."),
]


def test_every_name_stands_beside_its_own() -> None:
    """Two weights of one shape, swapped on both ways, would survive any round trip; so names are compared."""
    for rule in video_xl_pro_rules(2):
        prefix, torch_prefix = next(pair for pair in RENAMED if rule.path.startswith(pair[0]))
        rest = rule.path.removeprefix(prefix).replace("/", ".")
        for ours, theirs in (("kernel", "weight"), ("scale", "weight"), ("embedding", "weight")):
            rest = rest.removesuffix(ours) + theirs if rest.split(".")[-1] == ours else rest
        rest = f"{rest}.embeddings_table" if "relative_position" in rest else rest
        assert rule.torch_key == torch_prefix + rest
