"""What the golden tests share: tracked tensors with their tolerances, and torch weights laid into our trees."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file

from vxlpro_jax.convert.rules import TRANSFORMS, Rule


class GoldenFile:
    """Tensors of one golden file. Every name must be read: `finish` fails on one that no check looked at."""

    def __init__(self, folder: Path, name: str):
        self.name = name
        self.tensors = load_file(folder / f"{name}.safetensors")
        index = json.loads((folder / "index.json").read_text())
        self.cfg = index["cfg"]
        self.gaps = index["gaps"]
        self.read: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self.tensors

    def __getitem__(self, key: str) -> np.ndarray:
        self.read.add(key)
        return self.tensors[key]

    def names(self, prefix: str) -> list[str]:
        return [key for key in self.tensors if key.startswith(prefix) and not key.endswith("__f64_minus_f32")]

    def weights(self, prefix: str = "") -> dict[str, np.ndarray]:
        """The reference's weights below a prefix, by their whole torch key."""
        is_weight = [key for key in self.tensors if key.startswith(("model.", "lm_head."))]
        return {key: self[key] for key in is_weight if key.startswith(prefix)}

    def tolerance(self, key: str) -> float:
        """max(10 gap, 2e-6 max): ten times what the reference's own float32 run is off its float64 run."""
        gap = self.gaps.get(f"{self.name}:{key}", {"max_abs_gap": 0.0})["max_abs_gap"]
        return max(10 * gap, 2e-6 * float(np.abs(self.tensors[key]).max()))

    def check(self, key: str, ours) -> None:
        """Ours against both runs of the reference: floats within the tolerance, integers exactly."""
        expected, ours = self[key], np.asarray(ours)
        assert ours.shape == expected.shape, f"{self.name}:{key}: shape {ours.shape}, golden {expected.shape}"
        if not np.issubdtype(expected.dtype, np.floating):
            np.testing.assert_array_equal(ours, expected, err_msg=f"{self.name}:{key}")
            print(f"{self.name}:{key}: identical, {expected.size} values")
            return
        tolerance = self.tolerance(key)
        runs = [expected.astype(np.float64)]
        if f"{key}__f64_minus_f32" in self:
            runs.append(runs[0] + self[f"{key}__f64_minus_f32"])
        errors = [float(np.abs(ours.astype(np.float64) - run).max()) for run in runs]
        print(f"{self.name}:{key}: largest error {max(errors):.2e}, tolerance {tolerance:.2e}")
        assert max(errors) <= tolerance, (
            f"{self.name}:{key}: largest error {max(errors):.3e} > tolerance {tolerance:.3e}"
        )

    def finish(self) -> None:
        unread = set(self.tensors) - self.read
        assert not unread, f"{self.name}: tensors that no check looked at: {sorted(unread)}"


def lay_in(weights: dict[str, np.ndarray], rules: tuple[Rule, ...], prefix: str = "") -> dict:
    """Our parameter tree (below `prefix`) of the torch weights that the rules name; absent ones stay absent."""
    leaves = {}
    for rule in rules:
        to_jax = TRANSFORMS[rule.transform].to_jax
        if "{}" in rule.torch_key:
            layers = []
            while (key := rule.torch_key.format(len(layers))) in weights:
                layers.append(to_jax(weights[key]))
            value = np.stack(layers) if layers else None
        else:
            value = to_jax(weights[rule.torch_key]) if rule.torch_key in weights else None
        if value is not None:
            leaves[tuple(rule.path.split("/"))] = jnp.asarray(value)
    tree = unflatten_dict(leaves)
    for name in filter(None, prefix.split("/")):
        tree = tree[name]
    return tree


def lay_out_tree(tree: dict, rules: tuple[Rule, ...]) -> dict[str, np.ndarray]:
    """The way back: arrays of our tree by their torch keys."""
    found = {}
    for rule in rules:
        node = tree
        for name in rule.path.split("/"):
            node = node.get(name) if node is not None else None
        if node is None:
            continue
        to_torch = TRANSFORMS[rule.transform].to_torch
        if "{}" in rule.torch_key:
            found |= {rule.torch_key.format(layer): to_torch(np.asarray(part)) for layer, part in enumerate(node)}
        else:
            found[rule.torch_key] = to_torch(np.asarray(node))
    return found
