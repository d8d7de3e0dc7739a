"""Layers that stand one by one compute what the scanned stack does, and take no memory of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.infer.askable import askable
from tests.infer.test_generate import GREEDY, _prefilled, _whole
from vxlpro_jax.infer import generate, layer_views
from vxlpro_jax.infer.generate import decode
from vxlpro_jax.infer.layer_views import by_layer


def large(dtype=jnp.float32):
    """Two layers of 8 MiB."""
    side = 2**11 if dtype == jnp.bfloat16 else 2**10
    kernel = jnp.arange(2 * side * 2048, dtype=jnp.float32).reshape(2, side, 2048).astype(dtype)
    return {"llm": {"layers": {"mlp": {"kernel": kernel}}, "norm": jnp.ones(3)}, "dts": jnp.ones(2)}


@pytest.mark.parametrize(("dtype", "place"), [(jnp.float32, None), (jnp.bfloat16, 0), (jnp.float32, 1)])
def test_layers_are_views(dtype, place):
    """On the device where they are; committed to it as they are, for a jitted program tells the two apart."""
    params = jax.device_put(large(dtype), None if place is None else jax.devices()[place])
    stack = params["llm"]["layers"]["mlp"]["kernel"]
    apart = by_layer(params)
    assert isinstance(params["llm"]["layers"], dict)
    assert apart["dts"] is params["dts"] and apart["llm"]["norm"] is params["llm"]["norm"]
    for number, layer in enumerate(apart["llm"]["layers"]):
        (kernel,) = jax.tree.leaves(layer)
        np.testing.assert_array_equal(kernel, stack[number])
        start = stack.unsafe_buffer_pointer() + number * stack.nbytes // 2
        assert kernel.unsafe_buffer_pointer() == start and kernel.dtype == dtype
        assert kernel.devices() == stack.devices() and kernel.committed == stack.committed == (place is not None)


def test_what_stays_stacked():
    small = askable().params
    assert by_layer(small) is small
    params = large()
    kernel = params["llm"]["layers"]["mlp"]["kernel"]
    for other in (np.asarray(kernel), jax.device_put(kernel, jax.NamedSharding(jax.make_mesh((2,), "x"), jax.P("x")))):
        elsewhere = {"llm": {"layers": {"mlp": {"kernel": other}}}}
        assert by_layer(elsewhere) is elsewhere


def test_decoding_layer_by_layer(monkeypatch):
    """The same tokens and the same cache, with the layers apart."""
    model = askable()
    stacked, cache = _whole(decode(model.model, model.params, *_prefilled(), 6, (), GREEDY, 0))
    seen = []
    more = generate._more_tokens
    monkeypatch.setattr(layer_views, "APART_BYTES", 0)
    monkeypatch.setattr(
        generate, "_more_tokens", lambda model, params, *rest: seen.append(params) or more(model, params, *rest)
    )
    apart, other = _whole(decode(model.model, model.params, *_prefilled(), 6, (), GREEDY, 0))
    assert all(isinstance(params["llm"]["layers"], tuple) for params in seen) and seen
    np.testing.assert_array_equal(apart, stacked)
    for one, two in zip(cache, other, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
