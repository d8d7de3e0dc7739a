"""A stock Qwen2.5 and a stock SigLIP put together.

Source: SPECs 3 and 10.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests.convert.reference_layout import (
    TOWER,
    assert_same_state,
    llm_shapes,
    random_state,
    read_state,
    released_fields,
    released_shapes,
    tiny_config,
    tower_shapes,
    write_shards,
)
from vxlpro_jax.convert import ConversionError, convert, load_config, load_params

CONFIG = tiny_config()
LLM_FIELDS = {key: value for key, value in released_fields(CONFIG, model_type="qwen2").items() if "mm_" not in key}


def qwen_folder(folder: Path, tied: bool = True, head: bool = False, **changes: object) -> Path:
    state = random_state(llm_shapes(CONFIG), "bfloat16", seed=1)
    if tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    if tied and not head:
        del state["lm_head.weight"]
    write_shards(folder, state)
    (folder / "config.json").write_text(json.dumps({**LLM_FIELDS, "tie_word_embeddings": tied, **changes}))
    return folder


def siglip_folder(folder: Path, newer: bool = False, nested: bool = True, **extra: tuple[int, ...]) -> Path:
    """A whole SigLIP with its text tower, or a vision model alone; with one layer more than is used."""
    shapes = tower_shapes(CONFIG, "" if newer else "vision_model.", more_layers=1)
    head = "head." if newer else "vision_model.head."
    shapes |= {head + "probe": (1, 1, 32), head + "attention.in_proj_weight": (96, 32)}
    if nested:
        shapes |= {"text_model.embeddings.token_embedding.weight": (9, 32), "logit_scale": (1,), "logit_bias": (1,)}
    write_shards(folder, random_state(shapes | extra, seed=2), num_shards=1)
    v = CONFIG.vision
    sizes = {
        "hidden_size": v.dim,
        "image_size": v.image_size,
        "intermediate_size": v.mlp_dim,
        "num_attention_heads": v.num_heads,
        "num_hidden_layers": v.num_layers + 1,
        "patch_size": v.patch_size,
    }
    config = (
        {"model_type": "siglip", "vision_config": sizes} if nested else {"model_type": "siglip_vision_model", **sizes}
    )
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [qwen_folder(tmp_path / "qwen"), siglip_folder(tmp_path / "siglip")]


def test_parts_keep_their_bits_and_the_rest_is_seeded(folders: list[Path], tmp_path: Path) -> None:
    convert(folders, tmp_path / "out", to="torch", seed=3)
    state = read_state(tmp_path / "out")
    qwen, siglip = read_state(folders[0]), read_state(folders[1])
    expected = {key: tensor for key, tensor in qwen.items()}
    expected |= {TOWER + key.removeprefix("vision_model."): tensor for key, tensor in siglip.items()}
    kept = {key: tensor for key, tensor in expected.items() if key in state}
    assert_same_state({key: state[key] for key in kept}, kept)
    left_out = expected.keys() - state.keys()
    assert {key.removeprefix(TOWER).split(".")[0] for key in left_out} == {
        "encoder",
        "head",
        "logit_bias",
        "logit_scale",
        "text_model",
    }
    assert all(".layers.2." in key for key in left_out if "encoder" in key)
    shapes = {key: shape for key, shape in released_shapes(CONFIG).items() if key != "lm_head.weight"}
    assert {key: tensor.shape for key, tensor in state.items()} == shapes
    assert np.std(state["model.sae.encoder.2.conv.weight"]) > 0


def test_seed_decides_the_fresh_parts_alone(folders: list[Path]) -> None:
    config, one = load_params(folders, seed=3)
    _, same = load_params(folders[::-1], seed=3)  # either order
    _, other = load_params(folders, seed=4)
    assert config == load_config(folders) == CONFIG.__class__(**{**CONFIG.__dict__, "max_context_len": 32768})
    for (path, leaf), again, differs in zip(
        flatten_dict(one, sep="/").items(), flatten_dict(same).values(), flatten_dict(other).values(), strict=True
    ):
        assert leaf.tobytes() == again.tobytes(), path
        fresh = path.startswith(("dts/", "projector/", "selector/"))
        if leaf.ndim > 1 and leaf.any():
            assert (leaf.tobytes() != differs.tobytes()) == fresh, path


@pytest.mark.parametrize(("newer", "nested"), [(True, False), (False, False)])
def test_other_spellings_of_the_tower_give_the_same(
    folders: list[Path], tmp_path: Path, newer: bool, nested: bool
) -> None:
    other = siglip_folder(tmp_path / "other", newer, nested)
    a = load_params(folders)[1]["vision_tower"]
    b = load_params([folders[0], other])[1]["vision_tower"]
    for one, two in zip(flatten_dict(a).values(), flatten_dict(b).values(), strict=True):
        assert one.shape == two.shape and one.tobytes() == two.tobytes()


@pytest.mark.parametrize(("tied", "head"), [(True, True), (False, True)])
def test_heads(folders: list[Path], tmp_path: Path, tied: bool, head: bool) -> None:
    llm = qwen_folder(tmp_path / "other", tied, head)
    convert([llm, folders[1]], tmp_path / "out", to="torch")
    assert read_state(tmp_path / "out")["lm_head.weight"].tobytes() == read_state(llm)["lm_head.weight"].tobytes()


def test_one_part_alone_or_twice_is_refused(folders: list[Path], tmp_path: Path) -> None:
    for lonely, other in ((folders[0], "siglip"), (folders[1], "qwen2")):
        with pytest.raises(ConversionError, match=f"is a part of the model; name a {other} folder beside it"):
            convert(lonely, tmp_path / "out")
    with pytest.raises(ConversionError, match="have to be a qwen2 and a siglip folder"):
        convert([folders[0], folders[0]], tmp_path / "out")
    with pytest.raises(ConversionError, match="3 sources"):
        convert([*folders, folders[0]], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unknown_and_missing_keys_are_named_as_the_file_has_them(folders: list[Path], tmp_path: Path) -> None:
    odd = siglip_folder(tmp_path / "odd", **{"vision_model.adapter.weight": (2, 2)})
    with pytest.raises(ConversionError, match=r"odd: 1 unknown keys: vision_model.adapter.weight\."):
        convert([folders[0], odd], tmp_path / "out")
    state = read_state(folders[1])
    del state["vision_model.post_layernorm.bias"]
    write_shards(folders[1], state)
    with pytest.raises(ConversionError, match=r"siglip: 1 missing keys: vision_model.post_layernorm.bias\."):
        convert(folders, tmp_path / "out")


@pytest.mark.parametrize("layers", [1, "x"])
def test_a_tower_without_a_layer_to_spare(folders: list[Path], tmp_path: Path, layers: object) -> None:
    path = folders[1] / "config.json"
    config = json.loads(path.read_text())
    config["vision_config"]["num_hidden_layers"] = layers
    path.write_text(json.dumps(config))
    with pytest.raises(ConversionError, match="num_hidden_layers = .*; at least 2 are needed"):
        convert(folders, tmp_path / "out")
