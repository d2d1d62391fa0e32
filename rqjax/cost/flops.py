"""Floating-point operations of a program, by the formulas for matrix products and convolutions.

Counted on JAX's own program, before the compiler: its count takes the body of a loop once, and cannot be had before a
compilation succeeds.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal

PASSES = {lax.Precision.HIGHEST: 6, lax.Precision.HIGH: 3}
"""How many passes in bfloat16 a TPU's matrix unit makes of one float32 product at this precision; else one."""


@dataclasses.dataclass(frozen=True)
class Flops:
    """Operations of one call over all devices, two for each multiplication with its addition."""

    total: int
    passes: int  # the same with each operation as often as a TPU repeats it for its precision
    bfloat16: int  # of the total, those in bfloat16; one such operand suffices where a TPU rounds the other

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.total + other.total, self.passes + other.passes, self.bfloat16 + other.bfloat16)

    def times(self, n: int) -> "Flops":
        return Flops(self.total * n, self.passes * n, self.bfloat16 * n)


def count(jaxpr: Any) -> Flops:
    """The operations of a program as `jax.make_jaxpr`, or `.trace(...).jaxpr` of a jitted function, gives it.

    Loops over a known number of iterations count as often, those that may end earlier as if they did not; of a
    conditional the dearest branch counts, and the body of a loop without a known end once. Element-wise operations and
    reductions are left out.
    """
    return sum((_of_equation(equation) for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns), Flops(0, 0, 0))


def _of_equation(equation: Any) -> Flops:
    name, p = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = p["dimension_numbers"]
        depth = math.prod(equation.invars[0].aval.shape[i] for i in contracted)
        return _flops(2 * equation.outvars[0].aval.size * depth, equation)
    if name == "conv_general_dilated":
        return _flops(_convolution(equation), equation)
    if name == "scan":
        return count(p["jaxpr"]).times(p["length"])
    if name == "while":
        return count(p["body_jaxpr"]).times(_most(p["cond_jaxpr"].jaxpr)) + count(p["cond_jaxpr"])
    if name == "cond":
        # a tie is between ways to one result (nets/matmul.py): CPUs take that in float32, and TPUs are counted for
        return max((count(branch) for branch in p["branches"]), key=lambda flops: (flops.total, flops.bfloat16))
    return sum((count(inner) for inner in _inner(p)), Flops(0, 0, 0))


def _most(condition: Any) -> int:
    """How often a loop runs at most that goes on while a counter from 0 is below a constant, and more holds; else 1."""
    limits = (x.invars[1] for x in condition.eqns if x.primitive.name == "lt" and not x.invars[1].aval.shape)
    return min((int(x.val) for x in limits if isinstance(x, Literal)), default=1)


def _convolution(equation: Any) -> int:
    """Two per output element, input channel of its group and element of the window.

    A dilated input, as in the gradient of a strided convolution, has zeros that a compiler need not multiply.
    """
    dimensions, p = equation.params["dimension_numbers"], equation.params
    kernel = equation.invars[1].aval.shape
    channels, *window = (kernel[i] for i in dimensions.rhs_spec[1:])
    return 2 * equation.outvars[0].aval.size * channels * math.prod(window) // math.prod(p["lhs_dilation"])


def _inner(params: dict[str, Any]) -> list[Any]:
    """The programs that an equation calls, of whatever kind it is."""
    found = [x for value in params.values() for x in (value if isinstance(value, tuple | list) else (value,))]
    return [x for x in found if hasattr(getattr(x, "jaxpr", x), "eqns")]


def _flops(total: int, equation: Any) -> Flops:
    precision = equation.params["precision"]
    first = precision[0] if isinstance(precision, tuple) else precision
    operands = [operand.aval.dtype == jnp.bfloat16 for operand in equation.invars]
    rounded = all(operands) or (first not in PASSES and any(operands))
    return Flops(total, total * PASSES.get(first, 1), total if rounded else 0)
