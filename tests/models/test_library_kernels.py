"""The library's kernels, interpreted on a CPU, against the plain form; and which programs have them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas

from vxlpro_jax.models import attention, library_kernels
from vxlpro_jax.models.attention import attend, attend_to_all
from vxlpro_jax.models.library_kernels import attend_on_gpu, attend_on_tpu
from vxlpro_jax.parallel import axes
from vxlpro_jax.parallel.axes import FSDP_TENSOR, UNSHARDED
from vxlpro_jax.parallel.mesh import make_mesh

RNG = np.random.default_rng(0)
NAMES = (axes.GROUPS, None, axes.VISION_HEADS, None)
KERNELS = {"tpu": "tpu_custom_call", "cuda": "__gpu$xla.gpu.triton"}


@pytest.mark.parametrize("kernel", [attend_on_gpu, attend_on_tpu])
def test_values_and_gradients_equal_the_plain_form(kernel, monkeypatch):
    """Rows of several blocks, the last mostly padding; a head width that is, like the tower's 72, no power of two."""
    monkeypatch.setattr(library_kernels, "TPU_BLOCK", 128)
    length = 130 if kernel is attend_on_tpu else 70
    q, k, v, weight = (jnp.asarray(2 * RNG.standard_normal((1, length, 1, 24)), jnp.float32) for _ in range(4))

    def run(form):
        def loss(q, k, v):
            out = form(q, k, v)
            return (out * weight).sum(), out

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)

    (_, plain), plain_gradients = run(attend)
    call = pallas.pallas_call
    monkeypatch.setattr(pallas, "pallas_call", lambda *given, **named: call(*given, **(named | {"interpret": True})))
    (_, found), gradients = run(kernel)
    np.testing.assert_allclose(found, plain, atol=2e-5)
    for mine, theirs in zip(gradients, plain_gradients, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-4)
        assert np.abs(theirs).max() > 1  # else nothing was compared


def program_for(platform, shape, dtype=jnp.bfloat16, kind="auto", rules=UNSHARDED, mesh_shape=None, gradient=False):
    """The text of the program that attend_to_all becomes."""
    mesh = make_mesh(mesh_shape or {"data": 1})
    x = jax.ShapeDtypeStruct(shape, dtype)

    def run(q, k, v):
        return attend_to_all(q, k, v, NAMES, rules, kind)

    def pull(q, k, v):
        return jax.grad(lambda *x: run(*x).astype(jnp.float32).sum(), (0, 1, 2))(q, k, v)

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return jax.jit(pull if gradient else run).trace(x, x, x).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("platform", KERNELS)
def test_a_platform_gets_its_own_kernel_and_a_cpu_none(platform):
    shape = (1, 260, 2, 72)
    calls = {name: program_for(platform, shape).count(call) for name, call in KERNELS.items()}
    assert calls == {name: int(name == platform) for name in KERNELS}
    assert program_for(platform, shape, gradient=True).count(KERNELS[platform]) >= 2  # forward once more, and backward
    assert "custom_call" not in program_for("cpu", shape, gradient=True)


@pytest.mark.parametrize(
    "changed",
    [{"dtype": jnp.float32}, {"kind": "xla"}, {"shape": (1, attention.KERNEL_LEN - 1, 2, 72)}],
    ids=["float32", "asked", "short"],
)
def test_xla_where_it_is_asked_for_or_a_kernel_does_not_pay(changed):
    assert "custom_call" not in program_for("tpu", **({"shape": (1, 260, 2, 72)} | changed))


def test_under_a_mesh_each_device_runs_the_kernel_on_its_rows_and_heads():
    mesh_shape = {"data": 2, "tensor": 2}
    cut = program_for("tpu", (4, 260, 6, 72), rules=FSDP_TENSOR, mesh_shape=mesh_shape)
    assert cut.count(KERNELS["tpu"]) == 1 and "tensor<2x3x384x72xbf16>" in cut
    for uneven in ((3, 260, 6, 72), (4, 260, 5, 72)):
        assert KERNELS["tpu"] not in program_for("tpu", uneven, rules=FSDP_TENSOR, mesh_shape=mesh_shape)


def test_under_a_mesh_values_and_gradients_stay():
    q, k, v = (jnp.asarray(RNG.standard_normal((2, 256, 2, 4)), jnp.bfloat16) for _ in range(3))

    def pull(rules, q, k, v):
        return jax.grad(lambda *x: (attend_to_all(*x, NAMES, rules, "auto") ** 2).sum(), (0, 1, 2))(q, k, v)

    plain = jax.jit(pull, static_argnums=0)(UNSHARDED, q, k, v)
    with jax.set_mesh(make_mesh({"data": 2, "tensor": 2})):
        cut = jax.jit(pull, static_argnums=0)(FSDP_TENSOR, q, k, v)
    for mine, theirs in zip(cut, plain, strict=True):
        assert mine.sharding.shard_shape(mine.shape) == (1, 256, 1, 4)
        np.testing.assert_allclose(np.asarray(mine, np.float32), np.asarray(theirs, np.float32), atol=1e-3)
