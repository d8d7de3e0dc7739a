"""Every tensor of every golden file against our modules, in float32, to the tolerance stated beside the numbers.

`--golden DIR` checks another directory of the same layout: all sizes come from its index.json.
"""

import json

import pytest

from tests.golden_data_pipeline import check_data_pipeline
from tests.golden_full_model import (
    FullModel,
    check_batch,
    check_cases,
    check_gradient_norms,
    check_greedy,
    check_stored_gradients,
)
from tests.golden_modules import CHECKS, config_of
from tests.golden_support import GoldenFile


@pytest.mark.parametrize("name", CHECKS)
def test_module(golden_dir, name):
    golden = GoldenFile(golden_dir, name)
    CHECKS[name](golden, config_of(golden.cfg, tied=golden.cfg["tie"]))
    golden.finish()


def test_full_model(golden_dir):
    golden = GoldenFile(golden_dir, "full_model")
    full = FullModel(golden, golden_dir)
    check_cases(full)
    check_greedy(full)
    check_batch(full)
    check_stored_gradients(full)
    golden.finish()


def test_full_model_grads(golden_dir):
    full = FullModel(GoldenFile(golden_dir, "full_model"), golden_dir)
    check_gradient_norms(full, json.loads((golden_dir / "full_model_grads.json").read_text()))


def test_data_pipeline(golden_dir):
    check_data_pipeline(json.loads((golden_dir / "data_pipeline.json").read_text()))


def test_no_file_is_left_out(golden_dir):
    assert {path.stem for path in golden_dir.glob("*.safetensors")} == {*CHECKS, "full_model"}


def test_a_wrong_tensor_is_noticed(golden_dir):
    golden = GoldenFile(golden_dir, "projector")
    golden.tensors["out.y"] = golden.tensors["out.y"] + 2 * golden.tolerance("out.y")
    with pytest.raises(AssertionError, match="largest error"):
        CHECKS["projector"](golden, config_of(golden.cfg, tied=golden.cfg["tie"]))
