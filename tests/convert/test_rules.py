"""Rules, transforms and the two accounts: every leaf filled once, every key used once.

Source: ours.
"""

import numpy as np
import pytest

from vxlpro_jax.convert.errors import ConversionError, name_some
from vxlpro_jax.convert.rules import TRANSFORMS, Placement, Rule, check_keys, lay_out, natural_order

TABLE = (Rule("layers.{}.weight", "layers/kernel", "linear"), Rule("bias", "bias", "same"))
SHAPES = {"layers/kernel": (2, 3, 5), "bias": (7,)}


@pytest.mark.parametrize(
    ("name", "torch_shape", "jax_shape"),
    [
        ("same", (3, 5), (3, 5)),
        ("linear", (3, 5), (5, 3)),
        ("pointwise_1d", (3, 5, 1), (5, 3)),
        ("pointwise_3d", (3, 5, 1, 1, 1), (5, 3)),
        ("conv_2d", (3, 5, 7, 11), (7, 11, 5, 3)),
        ("conv_3d", (3, 5, 7, 11, 13), (7, 11, 13, 5, 3)),
    ],
)
def test_transform_is_reversible(name: str, torch_shape: tuple[int, ...], jax_shape: tuple[int, ...]) -> None:
    tensor = np.arange(np.prod(torch_shape)).reshape(torch_shape)
    transform = TRANSFORMS[name]
    array = transform.to_jax(tensor)
    assert array.shape == jax_shape
    assert transform.shape_in_torch(jax_shape) == torch_shape
    np.testing.assert_array_equal(transform.to_torch(array), tensor)
    assert np.shares_memory(transform.to_torch(array), tensor), "reading fills leaves through this view"


def test_convolution_axes_are_where_the_model_wants_them() -> None:
    tensor = np.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)  # out, in, time, y, x
    assert TRANSFORMS["conv_3d"].to_jax(tensor)[1, 2, 3, 2, 1] == tensor[1, 2, 1, 2, 3]


def test_lay_out_places_each_layer() -> None:
    assert lay_out(TABLE, SHAPES) == [
        Placement("bias", (7,), "bias", None, "same"),
        Placement("layers.0.weight", (5, 3), "layers/kernel", 0, "linear"),
        Placement("layers.1.weight", (5, 3), "layers/kernel", 1, "linear"),
    ]


@pytest.mark.parametrize(
    ("table", "shapes", "message"),
    [
        (TABLE[:1], SHAPES, "parameters without a conversion rule: bias"),
        (TABLE, {"bias": (7,)}, "no parameter layers/kernel"),
        ((*TABLE, Rule("bias2", "bias", "same")), SHAPES, "bias is filled by two rules"),
        ((*TABLE, Rule("bias", "other", "same")), {**SHAPES, "other": (7,)}, "two rules name one torch key"),
    ],
)
def test_lay_out_refuses_a_table_that_does_not_fit(table: tuple, shapes: dict, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        lay_out(table, shapes)


def test_an_optional_rule_may_lack_its_leaf() -> None:
    assert lay_out((*TABLE, Rule("head", "head", "linear", optional=True)), SHAPES) == lay_out(TABLE, SHAPES)


def found(**changes: tuple[int, ...] | None) -> dict[str, tuple[int, ...]]:
    state = {"layers.0.weight": (5, 3), "layers.1.weight": (5, 3), "bias": (7,)}
    state |= {key.replace("__", "."): shape for key, shape in changes.items()}
    return {key: shape for key, shape in state.items() if shape is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias": None}, "1 missing keys: bias"),
        ({"extra": (1,)}, "1 unknown keys: extra"),
        ({"layers__2__weight": (5, 3)}, "unknown keys: layers.2.weight"),
        ({"layers__1__weight": (3, 5)}, r"layers.1.weight is \[3, 5\], config.json asks for \[5, 3\]"),
    ],
)
def test_check_keys_names_what_is_wrong(changes: dict, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        check_keys(lay_out(TABLE, SHAPES), found(**changes), (r"buffer\..*",))


def test_check_keys_accepts_what_is_knowingly_left_out() -> None:
    dropped = check_keys(lay_out(TABLE, SHAPES), found(buffer__a=(1,)), (r"buffer\..*",))
    assert dropped == ["buffer.a"]
    assert check_keys(lay_out(TABLE, SHAPES), found(), (r".*",)) == []


def test_natural_order_and_messages() -> None:
    assert sorted(["a.10.b", "a.9.b", "a.b"], key=natural_order) == ["a.9.b", "a.10.b", "a.b"]
    assert name_some(["b", "a", "c"], limit=2) == "a, b and 1 more"
