"""Which parameters are trained: modules, parts of them, exceptions, and names that are not there."""

import jax.numpy as jnp
import optax
import pytest

from vxlpro_jax.train.state import join_params, new_state, part_of, split_params

PARAMS = {"llm": {"embed_tokens": {"embedding": 1}, "layers": {"mlp": 2, "norm": 3}}, "dts": {"conv": 4}}


def test_whole_modules_are_trained_and_the_rest_is_frozen():
    chosen, frozen = split_params(PARAMS, ("dts",))
    assert chosen == {"dts/conv": 4} and len(frozen) == 3
    assert join_params(chosen, frozen) == PARAMS


def test_the_longest_name_decides():
    assert sorted(split_params(PARAMS, ("llm",), ("embeddings",))[0]) == ["llm/layers/mlp", "llm/layers/norm"]
    assert list(split_params(PARAMS, ("llm/layers/mlp",), ("llm",))[0]) == ["llm/layers/mlp"]
    assert list(split_params(PARAMS, ("llm", "embeddings"), ("llm/layers",))[0]) == ["llm/embed_tokens/embedding"]
    assert part_of("llm/layers/mlp", {"llm": 1, "llm/lay": 2}) == "llm"


@pytest.mark.parametrize("which", ["trainable", "frozen"])
def test_unknown_parts_are_named(which):
    with pytest.raises(ValueError, match=rf"stage.{which}: \['tower'\] are not .*'dts', 'embeddings', 'llm'"):
        split_params(PARAMS, **{"trainable": ("dts",), which: ("tower",)})


def test_the_optimizer_holds_the_trained_leaves_alone():
    params = {"a": {"w": jnp.ones(3)}, "b": {"w": jnp.ones(2)}}
    state = new_state(params, ("a",), optax.adam(0.1), seed=2**40)
    assert list(state.opt_state[0].mu) == ["a/w"] and int(state.step) == 0
