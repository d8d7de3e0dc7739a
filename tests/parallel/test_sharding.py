"""On a mesh of four fake devices the model is born the same, computes the same, and really lies in pieces."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import NamedSharding, PartitionSpec

from tests.small_model import SMALL, empty_cache, keep_all, make_batch, make_row, small_params
from vxlpro_jax.models.presets import PRESETS
from vxlpro_jax.models.video_xl_pro import VideoXLProModel, init_params
from vxlpro_jax.parallel.axes import FSDP_TENSOR, UNSHARDED
from vxlpro_jax.parallel.mesh import make_mesh
from vxlpro_jax.parallel.sharding import init_sharded, param_shardings
from vxlpro_jax.train.losses import next_token_loss

MESH_SHAPE = {"data": 2, "tensor": 2}
KEY = jax.random.key(3)


def boxed():
    return jax.eval_shape(lambda: init_params(SMALL, KEY))


def assert_close(ours, theirs, names: str) -> None:
    ours, theirs = flatten_dict(ours), flatten_dict(theirs)
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
        largest = np.abs(np.asarray(theirs[path])).max()
        np.testing.assert_allclose(
            np.asarray(value), np.asarray(theirs[path]), rtol=0, atol=2e-5 * largest + 1e-7, err_msg=f"{names} {path}"
        )


def test_born_in_pieces_and_equal_bit_for_bit():
    mesh = make_mesh(MESH_SHAPE)
    sharded = flatten_dict(init_sharded(lambda key: init_params(SMALL, key), KEY, mesh, FSDP_TENSOR))
    plain = flatten_dict(nn.unbox(jax.jit(init_params, static_argnums=0)(SMALL, KEY)))
    assert sharded.keys() == plain.keys()
    for path, leaf in sharded.items():
        assert np.array_equal(np.asarray(leaf), np.asarray(plain[path])), path
    for path, pieces in {
        ("llm", "embed_tokens", "embedding"): (2, 2),
        ("llm", "layers", "mlp", "gate_proj", "kernel"): (1, 2, 2),
        ("llm", "layers", "self_attn", "o_proj", "kernel"): (1, 2, 2),
        ("llm", "layers", "self_attn", "k_proj", "bias"): (1, 2),
        ("llm", "norm", "scale"): (2,),
        ("vision_tower", "layers", "mlp", "fc2", "kernel"): (1, 2, 2),
        ("vision_tower", "patch_embedding", "kernel"): (1, 1, 1, 2),
        ("dts", "stage_0", "conv", "kernel"): (1, 1, 1, 2, 2),
        ("dts", "stage_1", "temporal", "relative_position_k"): (1, 2),
        ("projector", "fc1", "kernel"): (2, 2),
        ("projector", "fc2", "kernel"): (2, 2),
        ("selector", "window_attention", "q_proj", "kernel"): (2, 2),
        ("selector", "text_mlp", "kernel"): (2, 1),
    }.items():
        leaf = sharded[path]
        expected = tuple(size // count for size, count in zip(leaf.shape, pieces, strict=True))
        assert {shard.data.shape for shard in leaf.addressable_shards} == {expected}, path
        assert len(leaf.addressable_shards) == 4


@pytest.mark.parametrize("name", PRESETS)
def test_every_leaf_of_every_preset_has_a_layout_that_divides_it(name):
    shapes = jax.eval_shape(lambda: init_params(PRESETS[name], KEY))
    shardings = param_shardings(shapes, make_mesh(MESH_SHAPE), FSDP_TENSOR)
    whole = in_pieces = 0
    for leaf, sharding in zip(jax.tree.leaves(nn.unbox(shapes)), jax.tree.leaves(shardings), strict=True):
        piece = sharding.shard_shape(leaf.shape)  # raises where an axis does not divide
        whole, in_pieces = whole + leaf.size, in_pieces + int(np.prod(piece))
    assert in_pieces < 0.27 * whole  # four devices; small leaves are replicated over one mesh axis


def test_a_leaf_without_axes_raises():
    params = boxed()
    params["projector"]["fc1"]["kernel"] = nn.unbox(params["projector"]["fc1"]["kernel"])
    with pytest.raises(ValueError, match=r"\['projector'\]\['fc1'\]\['kernel'\] declares no logical axes"):
        param_shardings(params, make_mesh(MESH_SHAPE), FSDP_TENSOR)


def test_rules_that_lack_a_name_raise_before_anything_is_made():
    rules = tuple(rule for rule in FSDP_TENSOR if rule[0] != "dts_out")
    with pytest.raises(ValueError, match="'dts_out' has no rule"):
        init_sharded(lambda key: init_params(SMALL, key), KEY, make_mesh(MESH_SHAPE), rules)


def test_forward_loss_and_gradients_equal_the_unsharded_ones():
    rows = [make_row(seed, [[3, 4], [3, 3]]) for seed in (1, 2)]
    _, batch = make_batch(rows)
    pixels = np.random.default_rng(0).standard_normal((16, 11, 11, 3)).astype(np.float32)

    def loss(rules, params, pixels, batch):
        def forward(model):
            visual = model.encode(pixels, jnp.arange(16))
            return model(jnp.stack([visual, visual[::-1]]), batch, keep_all(batch), batch.row_source.shape[1])

        output = VideoXLProModel(SMALL, rules=rules).apply({"params": params}, method=forward)
        return next_token_loss(output.logits, output.labels)[0].mean(), output

    step = jax.jit(jax.value_and_grad(loss, argnums=1, has_aux=True), static_argnums=0)
    params = small_params()
    (plain_loss, plain), plain_grads = step(UNSHARDED, params, pixels, batch)
    mesh = make_mesh(MESH_SHAPE)
    shardings = param_shardings(boxed(), mesh, FSDP_TENSOR)
    placed = jax.device_put(params, shardings)
    over_data = NamedSharding(mesh, PartitionSpec("data"))
    with jax.set_mesh(mesh):
        inputs = jax.device_put((pixels, batch), over_data)
        (sharded_loss, sharded), grads = step(FSDP_TENSOR, placed, *inputs)
        text = step.lower(FSDP_TENSOR, placed, *inputs).as_text()
    assert text.count("sharding_constraint") >= 4  # the tower, the DTS and the decoder pin their activations
    np.testing.assert_allclose(float(sharded_loss), float(plain_loss), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(sharded.logits), np.asarray(plain.logits), atol=1e-4)
    np.testing.assert_allclose(np.asarray(sharded.scores), np.asarray(plain.scores), atol=1e-5)
    assert_close(grads, plain_grads, "gradient of")


def test_prefill_and_decode_equal_the_unsharded_ones():
    visual, batch = make_batch([make_row(1, [[3, 4]]), make_row(2, [[3]], text_len=6)])
    length = batch.row_source.shape[1]
    steps = 3

    def answer(rules, params, visual, batch, cache):
        model = VideoXLProModel(SMALL, rules=rules)

        def prefill(model):
            rows, _ = model.merge(visual, batch, keep_all(batch), length)
            return model.prefill(rows.embeds, rows.valid, cache)

        logits, cache_now = model.apply({"params": params}, method=prefill)
        seen = [logits]
        for _ in range(steps):
            logits, cache_now = model.apply(
                {"params": params}, seen[-1].argmax(-1), cache_now, method=VideoXLProModel.decode_step
            )
            seen.append(logits)
        return jnp.stack(seen), cache_now

    generate = jax.jit(answer, static_argnums=0)
    plain, plain_cache = generate(UNSHARDED, small_params(), visual, batch, empty_cache(2, length + steps))
    mesh = make_mesh(MESH_SHAPE)
    placed = jax.device_put(small_params(), param_shardings(boxed(), mesh, FSDP_TENSOR))
    with jax.set_mesh(mesh):
        inputs = jax.device_put((visual, batch), NamedSharding(mesh, PartitionSpec("data")))
        sharded, cache = generate(FSDP_TENSOR, placed, *inputs, empty_cache(2, length + steps))
    np.testing.assert_allclose(np.asarray(sharded), np.asarray(plain), atol=1e-4)
    np.testing.assert_allclose(np.asarray(cache.keys), np.asarray(plain_cache.keys), atol=1e-4)
    assert np.array_equal(cache.valid, plain_cache.valid)
