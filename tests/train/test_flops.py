"""Counted operations against counts by hand."""

import jax
import jax.numpy as jnp

from vxlpro_jax.train.flops import count_flops

X = jax.ShapeDtypeStruct((4, 8), jnp.float32)
W = jax.ShapeDtypeStruct((8, 8), jnp.float32)


def test_a_product_costs_two_operations_for_each_term():
    assert count_flops(lambda x, w: x @ w, X, W) == 2 * 4 * 8 * 8


def test_a_gradient_costs_twice_the_product():
    assert count_flops(jax.grad(lambda w, x: jnp.sin(x @ w).sum()), W, X) == 2 * 2 * 4 * 8 * 8
    both = count_flops(jax.grad(lambda w, x: jnp.sin(x @ w).sum(), argnums=(0, 1)), W, X)
    assert both == 3 * 2 * 4 * 8 * 8


def test_loops_count_as_often_as_they_run_and_jit_is_looked_into():
    def layers(x, w):
        return jax.lax.scan(lambda x, _: (jax.jit(jnp.matmul)(x, w), None), x, None, length=5)[0]

    assert count_flops(layers, X, W) == 5 * 2 * 4 * 8 * 8


def test_computing_again_is_counted_where_it_happens():
    def loss(w, x):
        return jnp.sin(jnp.sin(x @ w) @ w).sum()

    again = count_flops(jax.grad(jax.checkpoint(loss)), W, X)
    assert again > count_flops(jax.grad(loss), W, X)


def test_of_branches_the_dearest_counts():
    def branch(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x)

    assert count_flops(branch, X, W) == 2 * 4 * 8 * 8


def test_convolutions_count_every_tap():
    x, kernel = jax.ShapeDtypeStruct((1, 3, 8, 8), jnp.float32), jax.ShapeDtypeStruct((5, 3, 3, 3), jnp.float32)
    conv = jax.jit(lambda x, k: jax.lax.conv(x, k, (1, 1), "SAME"))
    assert count_flops(conv, x, kernel) == 2 * 5 * 8 * 8 * 3 * 9
