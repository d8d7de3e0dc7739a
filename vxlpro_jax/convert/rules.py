"""What a conversion rule is, and how tables of rules are laid over abstract shapes before a byte is read.

Source: ours. A rule is (torch key pattern with `{}` for the layer, our path, named reversible
transform); the way back is the same tables read backwards.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from vxlpro_jax.convert.errors import ConversionError, name_some


class Transform(NamedTuple):
    """A reversible rearrangement: drop `trailing_ones` axes of size one from torch's tensor, then permute to `axes`."""

    trailing_ones: int
    axes: tuple[int, ...] | None  # None = as it is, any rank

    def shape_in_torch(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the torch shape of a tensor of ours."""
        if self.axes is not None:
            shape = tuple(shape[self.axes.index(axis)] for axis in range(len(shape)))
        return shape + (1,) * self.trailing_ones

    def to_jax(self, tensor: np.ndarray) -> np.ndarray:
        """Return torch's tensor in our layout, as a view."""
        if self.trailing_ones:
            tensor = tensor.reshape(tensor.shape[: -self.trailing_ones])
        return tensor if self.axes is None else tensor.transpose(self.axes)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Return our array in torch's layout (a view where numpy can make one)."""
        if self.axes is not None:
            array = array.transpose(np.argsort(self.axes))
        return array.reshape(array.shape + (1,) * self.trailing_ones)


TRANSFORMS: dict[str, Transform] = {
    "same": Transform(0, None),
    "linear": Transform(0, (1, 0)),  # (out, in) -> (in, out)
    "pointwise_1d": Transform(1, (1, 0)),  # (out, in, 1) -> (in, out)
    "pointwise_3d": Transform(3, (1, 0)),  # (out, in, 1, 1, 1) -> (in, out)
    "conv_2d": Transform(0, (2, 3, 1, 0)),  # (out, in, y, x) -> (y, x, in, out)
    "conv_3d": Transform(0, (2, 3, 4, 1, 0)),  # (out, in, time, y, x) -> (time, y, x, in, out)
}


class Rule(NamedTuple):
    """One line of a table. `{}` in `torch_key` is the layer, which is the leading axis of our leaf at `path`."""

    torch_key: str
    path: str
    transform: str
    optional: bool = False  # True = our tree may lack the leaf (a head that is tied)

    def under(self, torch_prefix: str, path_prefix: str) -> "Rule":
        """Return the rule with both names moved below a prefix."""
        return self._replace(torch_key=torch_prefix + self.torch_key, path=path_prefix + self.path)


class Placement(NamedTuple):
    """Where one torch tensor lives in our tree."""

    torch_key: str
    torch_shape: tuple[int, ...]
    path: str
    layer: int | None  # index on the leading axis of the leaf, None where the leaf is not stacked
    transform: str


def with_bias(torch_name: str, path: str, transform: str) -> tuple[Rule, Rule]:
    """Return the two rules of a layer that has a kernel and a bias."""
    return (
        Rule(f"{torch_name}.weight", f"{path}/kernel", transform),
        Rule(f"{torch_name}.bias", f"{path}/bias", "same"),
    )


def norm_with_bias(torch_name: str, path: str) -> tuple[Rule, Rule]:
    """Return the two rules of a normalisation that has a scale and a bias."""
    return (Rule(f"{torch_name}.weight", f"{path}/scale", "same"), Rule(f"{torch_name}.bias", f"{path}/bias", "same"))


def lay_out(rules: Iterable[Rule], leaf_shapes: Mapping[str, tuple[int, ...]]) -> list[Placement]:
    """Lay a table over our tree: every leaf filled by exactly one rule, each torch key named once.

    Args:
        rules: the table.
        leaf_shapes: shape of every leaf by its path, names joined by "/".

    Returns:
        One placement per torch tensor, in natural order of the keys.

    Raises:
        ConversionError: a leaf without a rule, a rule without a leaf, or one filled twice (a fault of the tables).
    """
    placements: list[Placement] = []
    ruled: set[str] = set()
    for rule in rules:
        if rule.path not in leaf_shapes:
            if rule.optional:
                continue
            raise ConversionError(
                f"rule {rule.torch_key}: the model has no parameter {rule.path}; see convert/*_rules.py."
            )
        if rule.path in ruled:
            raise ConversionError(f"parameter {rule.path} is filled by two rules; see convert/*_rules.py.")
        ruled.add(rule.path)
        placements.extend(_place(rule, tuple(leaf_shapes[rule.path])))
    if unruled := set(leaf_shapes) - ruled:
        raise ConversionError(f"parameters without a conversion rule: {name_some(unruled)}; see convert/*_rules.py.")
    if len({placement.torch_key for placement in placements}) != len(placements):
        raise ConversionError("two rules name one torch key; see convert/*_rules.py.")
    return sorted(placements, key=lambda placement: natural_order(placement.torch_key))


def _place(rule: Rule, shape: tuple[int, ...]) -> list[Placement]:
    transform = TRANSFORMS[rule.transform]
    if "{}" not in rule.torch_key:
        return [Placement(rule.torch_key, transform.shape_in_torch(shape), rule.path, None, rule.transform)]
    torch_shape = transform.shape_in_torch(shape[1:])
    return [
        Placement(rule.torch_key.format(layer), torch_shape, rule.path, layer, rule.transform)
        for layer in range(shape[0])
    ]


def natural_order(key: str) -> list:
    """Return a sort key in which layer 2 comes before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", key)]


def check_keys(
    placements: Iterable[Placement],
    found: Mapping[str, tuple[int, ...]],
    dropped: Iterable[str] = (),
    where: str = "checkpoint",
) -> list[str]:
    """Check that what a checkpoint holds is exactly what the model needs, before a byte of it is read.

    Args:
        placements: what the model needs.
        found: shape of every tensor in the checkpoint by its key.
        dropped: regular expressions of keys that are knowingly left out.
        where: the checkpoint's name, for messages.

    Returns:
        The keys that are knowingly left out.

    Raises:
        ConversionError: naming missing keys, unknown keys or keys of another shape.
    """
    needed = {placement.torch_key: placement.torch_shape for placement in placements}
    patterns = [re.compile(pattern) for pattern in dropped]
    surplus = [key for key in found if key not in needed]
    left_out = [key for key in surplus if any(pattern.fullmatch(key) for pattern in patterns)]
    faults = []
    if missing := needed.keys() - found.keys():
        faults.append(f"{len(missing)} missing keys: {name_some(missing)}")
    if unknown := set(surplus) - set(left_out):
        faults.append(f"{len(unknown)} unknown keys: {name_some(unknown)}")
    wrong = [
        f"{key} is {list(found[key])}, config.json asks for {list(shape)}"
        for key, shape in needed.items()
        if key in found and tuple(found[key]) != shape
    ]
    if wrong:
        faults.append(f"{len(wrong)} keys of wrong shape: {name_some(wrong)}")
    if faults:
        raise ConversionError(f"{where}: {'; '.join(faults)}.")
    return left_out
