"""LoRA: it starts as nothing, is trained alone, and folds into the kernels with the same logits."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vxlpro_jax.models.presets import PRESETS
from vxlpro_jax.models.video_xl_pro import VideoXLProModel, abstract_params, init_params
from vxlpro_jax.train.lora import LoraConfig, add_lora, lora_parts, merge_lora
from vxlpro_jax.train.losses import LossTerms, Term
from vxlpro_jax.train.state import new_state
from vxlpro_jax.train.step import make_train_step

TINY = PRESETS["tiny"]
SMALL = replace(TINY, vision=replace(TINY.vision, num_layers=1), llm=replace(TINY.llm, num_layers=2))
MODEL = VideoXLProModel(SMALL)
CONFIG = LoraConfig(rank=3, alpha=6.0, targets=("q_proj", "down_proj"))
IDS = jnp.arange(12).reshape(2, 6)


@pytest.fixture(scope="module")
def params():
    return nn.unbox(jax.jit(lambda: init_params(SMALL, jax.random.key(0)))())


@jax.jit
def logits(params):
    def read(module, ids):
        x = module.llm.embed(ids, jnp.float32)
        valid = jnp.ones(ids.shape, bool)
        return module.llm.logits(module.llm(x, jnp.cumsum(valid, -1) - 1, valid)[0])

    return MODEL.apply({"params": params}, IDS, method=read)


def test_it_starts_as_nothing_learns_alone_and_merges_with_the_same_logits(params):
    added = add_lora(params, CONFIG, jax.random.key(1))
    np.testing.assert_array_equal(logits(added), logits(params))

    def loss(params, batch, key):
        value = jnp.square(logits(params) - 1).sum()
        return LossTerms({"fit": Term(value, jnp.array(IDS.size))}, {})

    parts = lora_parts(added)
    assert len(parts) == 4 and all("/lora/" in part for part in parts)
    optimizer = optax.adam(0.02)
    frozen = jax.tree.map(np.asarray, params)
    state = new_state(jax.tree.map(jnp.copy, added), parts, optimizer)
    step = make_train_step(loss, parts, optimizer)
    for _ in range(3):
        state, metrics = step(state, [IDS])
    assert float(metrics["skipped"]) == 0
    merged = merge_lora(state.params)
    changed = logits(state.params)
    assert not np.allclose(changed, logits(params), atol=0.05)
    np.testing.assert_allclose(logits(merged), changed, atol=2e-4)
    assert jax.tree.structure(merged) == jax.tree.structure(abstract_params(SMALL))
    kernel = merged["llm"]["layers"]["self_attn"]["k_proj"]["kernel"]
    np.testing.assert_array_equal(kernel, frozen["llm"]["layers"]["self_attn"]["k_proj"]["kernel"])
    up = state.params["llm"]["layers"]["mlp"]["down_proj"]["lora"]
    np.testing.assert_array_equal(up["scale"], np.full(2, 2.0, np.float32))
    assert float(jnp.abs(up["up"]).max()) > 0


def test_unknown_targets_are_named(params):
    with pytest.raises(ValueError, match=r"lora.targets: 'qproj' is no layer of the LLM; \['down_proj'"):
        add_lora(params, replace(CONFIG, targets=("qproj",)), jax.random.key(0))
