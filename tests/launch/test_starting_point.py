"""Where parameters start from: told part by part, nothing fresh in silence, and other models refused."""

import importlib
import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from launch.starting_point import check_sources, save_model, sources_of, starting_params, tell
from vxlpro_jax.config import build, model_config
from vxlpro_jax.convert import load_params

EMBEDDED = "vxlpro_jax/assets/tiny"


@pytest.fixture
def config():
    return replace(build(importlib.import_module("configs.tiny.align").get_config()), init_from=EMBEDDED, parts={})


def test_parts_come_from_their_sources_and_the_table_says_so(config, tmp_path):
    sizes = model_config(config)
    _, params = load_params(EMBEDDED, dtype="float32")
    other = jax.tree.map(lambda leaf: leaf + 1, params["dts"])
    save_model({**params, "dts": other, "heads": {"w": np.zeros(2)}}, tmp_path / "stage")
    config = replace(config, parts={"dts": str(tmp_path / "stage"), "projector": "fresh"})
    check_sources(config, sizes)
    found, origins = starting_params(config, sizes)
    jax.tree.map(np.testing.assert_array_equal, found["dts"], other)
    jax.tree.map(np.testing.assert_array_equal, found["llm"], params["llm"])
    assert not np.allclose(found["projector"]["fc1"]["kernel"], params["projector"]["fc1"]["kernel"])
    text = tell(origins, tmp_path)
    kinds = {line["part"]: line["kind"] for line in json.loads((tmp_path / "provenance.json").read_text())}
    assert kinds == {**dict.fromkeys(sources_of(config), "checkpoint"), "dts": "stage", "projector": "fresh"}
    assert text.count("FRESH") == 1 and [line.split()[2] for line in text.splitlines()[1:]].count("100%") == 1
    again = starting_params(config, sizes)[1]
    assert [origin.digest for origin in again] == [origin.digest for origin in origins]


def test_nothing_is_fresh_in_silence(config):
    silent = replace(config, init_from="", parts={"llm": EMBEDDED})
    with pytest.raises(ValueError, match="names nothing for vision_tower, dts, projector, selector"):
        check_sources(silent, model_config(silent))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"init_from": "no/such/folder"}, r"config.init_from='no/such/folder': .*no such folder"),
        ({"parts": {"dts": "no/such"}}, r"config.parts.dts='no/such'"),
        ({"preset": "video_xl_pro_3b"}, r"config.init_from=.*vision_tower/.*is \[.*the model's is \[.*preset"),
    ],
)
def test_wrong_sources_are_told_before_anything_is_read(config, change, told):
    config = replace(config, **change)
    with pytest.raises(ValueError, match=told):
        check_sources(config, model_config(config))


def test_an_unfinished_stage_is_told(config, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    config = replace(config, init_from=str(tmp_path))
    with pytest.raises(ValueError, match="a stage that is not finished"):
        check_sources(config, model_config(config))
