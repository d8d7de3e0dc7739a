"""config.json in both directions.

Source: SPEC 10; quirk 20.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.convert.reference_layout import released_fields, tiny_config
from vxlpro_jax.convert.errors import ConversionError
from vxlpro_jax.convert.released_config import BLOCK, STORAGE_BLOCK, config_from_released, released_from_config
from vxlpro_jax.models.presets import PRESETS, config_to_dict


def test_released_fields_give_the_released_switches_with_their_sizes() -> None:
    assert config_from_released(released_fields(tiny_config())) == tiny_config()


def test_full_size_without_block_or_vision_sizes_is_the_preset() -> None:
    config = PRESETS["video_xl_pro_3b"]
    fields = released_from_config(config, {}, "bfloat16", {})
    del fields[BLOCK]
    assert config_from_released(fields) == config
    assert fields["model_type"] == "llava_qwen" and fields["torch_dtype"] == "bfloat16"


def test_golden_config_honours_its_overrides(golden_dir: Path) -> None:
    fields = json.loads((golden_dir / "full_model_state" / "config.json").read_text())
    sizes = fields["tiny_test_overrides"]["vision_config"]
    config = config_from_released(fields)
    assert config.vision.num_layers == sizes["num_hidden_layers_used"]
    assert (config.vision.image_size, config.vision.patch_size) == (sizes["image_size"], sizes["patch_size"])
    assert config.dts.dim == config.vision.dim == fields["mm_hidden_size"]
    assert config.llm.tie_embeddings is fields["tie_word_embeddings"]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_block_is_obeyed_whatever_the_fields_say(name: str) -> None:
    block = {BLOCK: json.loads(json.dumps(config_to_dict(PRESETS[name])))}
    assert config_from_released(released_fields(tiny_config()) | block) == PRESETS[name]


def test_every_config_survives_the_way_there_and_back() -> None:
    odd = replace(tiny_config(), llm=replace(tiny_config().llm, head_dim=10))
    for config in (*PRESETS.values(), tiny_config(), odd):
        fields = json.loads(json.dumps(released_from_config(config, {}, "float32", {})))
        assert config_from_released(fields) == config
    assert fields["head_dim"] == 10


def test_rope_base_is_read_from_both_places() -> None:
    fields = released_fields(tiny_config(), rope_parameters={"rope_theta": 5e5, "rope_type": "default"})
    del fields["rope_theta"]
    assert config_from_released(fields).llm.rope_base == 5e5
    assert config_from_released({**fields, "rope_theta": 3e5}).llm.rope_base == 3e5
    del fields["rope_parameters"]
    with pytest.raises(ConversionError, match="neither rope_theta nor rope_parameters.rope_theta"):
        config_from_released(fields)


def test_fields_of_the_source_stay_and_storage_is_renewed() -> None:
    base = released_fields(tiny_config()) | {STORAGE_BLOCK: {"old": 1}}
    fields = released_from_config(tiny_config(), base, "float32", {"lm_head_stored": True})
    assert fields["a_field_that_nobody_reads"] == {"deep": [1, 2]} and fields["eos_token_id"] == 7
    assert fields[STORAGE_BLOCK] == {"lm_head_stored": True}
    assert STORAGE_BLOCK not in released_from_config(tiny_config(), base, "float32", {})
    unchanged = {key: value for key, value in base.items() if key != STORAGE_BLOCK}
    assert {key: fields[key] for key in unchanged} == unchanged


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mm_projector_type": "linear"}, "mm_projector_type = 'linear' is not supported; accepted: 'mlp2x_gelu'"),
        ({"mm_patch_merge_type": "spatial_unpad"}, "mm_patch_merge_type"),
        ({"mm_spatial_pool_mode": "median"}, "mm_spatial_pool_mode"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"hidden_size": "wide"}, "hidden_size = 'wide'; a positive whole number is needed"),
        ({"hidden_size": None}, "hidden_size = None"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
        ({"num_attention_heads": 5}, "hidden_size 24 is no multiple of num_attention_heads 5"),
        ({"mm_hidden_size": 33}, "mm_hidden_size = 33, the vision tower is 32 wide"),
        ({BLOCK: 3}, "the block vxlpro_jax = 3"),
        ({BLOCK: {"vission": 3}}, "unknown key vxlpro_jax.vission; did you mean 'vision'"),
    ],
)
def test_what_is_not_supported_is_named(changes: dict, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        config_from_released(released_fields(tiny_config(), **changes), "folder/config.json")
