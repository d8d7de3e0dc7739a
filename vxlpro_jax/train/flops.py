"""Counted operations of a function: those of its matrix products and convolutions, loops as often as they run.

Source: ours. XLA's own estimate counts the body of a loop once, and our layers are scanned.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def count_flops(function: Callable[..., Any], *args: Any) -> int:
    """Multiplications and additions in matrix products and convolutions of function(*args).

    args are arrays or jax.ShapeDtypeStruct; nothing is computed. Of a condition's branches the dearest counts, of a
    loop without a fixed number of rounds one round.
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def _of_jaxpr(jaxpr: core.Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: core.JaxprEqn) -> int:
    params, name = equation.params, equation.primitive.name
    shapes: list[tuple[int, ...]] = [getattr(var.aval, "shape", ()) for var in (*equation.invars, *equation.outvars)]
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return 2 * math.prod(shapes[-1]) * math.prod(shapes[0][axis] for axis in contracted)
    if name == "conv_general_dilated":
        out_features = shapes[1][params["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(shapes[-1]) * math.prod(shapes[1]) // out_features
    if name == "scan":
        return params["length"] * _of_jaxpr(params["jaxpr"].jaxpr)
    if name == "cond":
        return max(_of_jaxpr(branch.jaxpr) for branch in params["branches"])
    return sum(_of_jaxpr(inner) for inner in _inner(params))


def _inner(params: dict[str, Any]) -> list[core.Jaxpr]:
    """Functions that an equation calls: jit, remat, custom derivatives, loops."""
    found = []
    for value in params.values():
        if isinstance(value, core.ClosedJaxpr):
            found.append(value.jaxpr)
        elif isinstance(value, core.Jaxpr):
            found.append(value)
    return found
