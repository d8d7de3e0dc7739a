"""Presets: the released sizes to the last parameter, and configs that survive JSON and refuse what they do not know."""

import json
import math
from dataclasses import replace

import pytest
from flax.traverse_util import flatten_dict

from vxlpro_jax.models.presets import (
    PRESETS,
    TINY,
    VIDEO_XL_PRO_3B,
    config_from_dict,
    config_to_dict,
    stretched,
    with_switches,
)
from vxlpro_jax.models.video_xl_pro import abstract_params


def count(tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in flatten_dict(tree).values())


def test_parameter_counts_of_the_released_model():
    """SPEC 10; the head is tied and therefore no parameter of its own."""
    params = abstract_params(VIDEO_XL_PRO_3B)
    llm, selector = params["llm"], params["selector"]
    assert count(llm["embed_tokens"]) == 311_164_928
    assert count(llm["layers"]) == 2_774_771_712
    assert count(llm["norm"]) == 2_048
    assert llm.keys() == {"embed_tokens", "layers", "norm"}
    assert count(params["vision_tower"]) == 397_747_744
    assert count(params["projector"]) == 6_557_696
    assert count(selector["text_mlp"]) == 4_196_352
    assert count(selector["window_attention"]) == 16_785_408
    assert selector.keys() == {"text_mlp", "window_attention"}
    assert count(params["dts"]) == 93_526_272
    assert params.keys() == {"llm", "vision_tower", "projector", "selector", "dts"}
    assert {leaf.dtype.name for leaf in flatten_dict(params).values()} == {"float32"}
    assert VIDEO_XL_PRO_3B.tokens_per_group == 144


def test_an_untied_head_is_a_parameter():
    untied = replace(VIDEO_XL_PRO_3B, llm=replace(VIDEO_XL_PRO_3B.llm, tie_embeddings=False))
    assert abstract_params(untied)["llm"]["lm_head"]["kernel"].shape == (2048, 151_936)


def test_the_embedded_model_fits_ten_megabytes_in_half_precision():
    assert count(abstract_params(TINY)) * 2 < 10e6


def test_presets_differ_where_they_say():
    released, paper = VIDEO_XL_PRO_3B, PRESETS["video_xl_pro_3b_paper"]
    assert (released.dts.frame_packing, released.dts.relative_term) == ("released", "released")
    assert (paper.dts.frame_packing, paper.dts.relative_term) == ("paper", "textbook")
    assert (released.selector.query_encoder, paper.selector.query_encoder) == ("embeddings", "llm")
    assert (released.selector.score_use, paper.selector.score_use) == ("add", "none")
    assert (released.selector.rotation_base, paper.selector.rotation_base) == (1e6, None)
    assert (released.label_mask, paper.label_mask) == ("released", "answers")
    for config in PRESETS.values():  # deterministic by default
        assert (config.selector.selection, config.selector.selector_query) == ("budget", "question")
        assert config.short_group == "pad_last"
    assert (TINY.dts.frame_packing, TINY.dts.relative_term) == ("paper", "released")
    assert replace(TINY.selector, trained_rows=None) == released.selector and TINY.selector.trained_rows == 1792


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json_and_are_hashable(name):
    written = json.dumps(config_to_dict(PRESETS[name]))
    again = config_from_dict(json.loads(written))
    assert again == PRESETS[name] and hash(again) == hash(PRESETS[name])


def broken(path: str, value=..., key: str | None = None) -> dict:
    """A preset as a dict with one value changed, one key renamed, or one key left out."""
    values = config_to_dict(VIDEO_XL_PRO_3B)
    *blocks, last = path.split(".")
    block = values
    for name in blocks:
        block = block[name]
    if key is not None:
        block[key] = block.pop(last)
    elif value is ...:
        del block[last]
    else:
        block[last] = value
    return values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (broken("llm.num_layers", key="num_layer"), r"unknown key vxlpro_jax.llm.num_layer; did you mean 'num_layers'"),
        (broken("stamps", key="zzz"), r"unknown key vxlpro_jax.zzz; known keys are \['dts', "),
        (broken("dts.dim"), r"missing keys of vxlpro_jax.dts: \['dim'\]"),
        (broken("selector"), r"missing keys of vxlpro_jax: \['selector'\]"),
        (broken("selector", value=3), r"vxlpro_jax.selector = 3: a block of keys is accepted"),
        (broken("dts.dim", value="1152"), r"vxlpro_jax.dts.dim = '1152': int is accepted"),
        (broken("dts.dim", value=1152.0), r"dim = 1152.0: int is accepted"),
        (broken("dts.dim", value=True), r"dim = True: int is accepted"),
        (broken("dts.dim", value=None), r"dim = None: int is accepted"),
        (broken("selector.score_use", value="yes"), r"score_use = 'yes': one of .*gate"),
        (broken("selector.rotation_base", value="1e6"), r"rotation_base = '1e6': float or NoneType is accepted"),
        (broken("dts.frame_packing", value="papers"), r"frame_packing = 'papers': one of \('released', 'paper'\)"),
        (broken("selector.selector_query", value=["row"]), r"selector_query = \['row'\]: one of"),
    ],
)
def test_what_is_not_known_raises_and_names_its_neighbour(values, message):
    with pytest.raises(ValueError, match=message):
        config_from_dict(values)


def test_numbers_that_json_wrote_short_are_accepted():
    assert config_from_dict(broken("llm.rope_base", value=1_000_000)) == VIDEO_XL_PRO_3B
    assert config_from_dict(broken("selector.rotation_base", value=None)).selector.rotation_base is None


def test_switches_are_named_by_path():
    changed = with_switches(TINY, {"selector.selector_query": "row", "max_context_len": 99})
    assert (changed.selector.selector_query, changed.max_context_len) == ("row", 99)
    assert with_switches(TINY, {}) == TINY
    for switches in ({"selector.selector_qery": "row"}, {"selektor.score_use": "add"}, {"selector.score_use": "yes"}):
        with pytest.raises(ValueError, match="unknown|accepted"):
            with_switches(TINY, switches)


@pytest.mark.parametrize(
    "switches", [{"vision.dim": 64}, {"llm.dim": 64}, {"projector.pool_stride": 3}, {"dts.frames_per_group": 6}]
)
def test_sizes_that_contradict_each_other(switches):
    with pytest.raises(ValueError, match="must be equal|multiple|power of two"):
        with_switches(TINY, switches)


def test_longer_contexts_are_stretched_with_a_warning_and_shorter_ones_are_not():
    assert stretched(VIDEO_XL_PRO_3B, None) == (VIDEO_XL_PRO_3B, None)
    shorter, stretch = stretched(VIDEO_XL_PRO_3B, 8192)
    assert (shorter.max_context_len, stretch) == (8192, None)
    with pytest.warns(UserWarning, match="context_len=131072.*trained on 32768 rows.*stretched by 4 .YaRN."):
        longer, stretch = stretched(VIDEO_XL_PRO_3B, 131072)
    assert longer.max_context_len == 131072
    assert stretch is not None and (stretch.factor, stretch.trained_len) == (4.0, 32768)
    with pytest.raises(ValueError, match="context_len=0: 1 or more"):
        stretched(VIDEO_XL_PRO_3B, 0)
