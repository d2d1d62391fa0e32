"""Products with weights, whose gradient by the weights a CPU computes without a transposed copy of a large array.

As JAX derives it, the gradient is the product the other way round, transposed: over several axes of tokens the compiler
then copies the gradient of the outputs, which is the larger array by far where logits are, and multiplies two arrays
that both lie the wrong way (benchmarks/weight_gradients.py). On other platforms nothing changes.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Float

Axes = tuple[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[()], tuple[()]]]
"""Axes of the inputs and of the weights that are summed over, as jax.lax.dot_general has them; there is no batch."""


def matmul(
    x: Float[Array | np.ndarray, "..."],
    kernel: Float[Array | np.ndarray, "..."],
    dimension_numbers: Axes | None = None,
    *,
    precision: jax.lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    out_sharding: NamedSharding | P | None = None,
) -> Float[Array, "..."]:
    """jax.lax.dot_general of inputs and weights, as nnx's linear layers call it; by default over one axis.

    The axes that are summed over are the last of the inputs and the first of the weights, in order.
    """
    axes = (((x.ndim - 1,), (0,)), ((), ())) if dimension_numbers is None else dimension_numbers
    count = len(axes[0][0])
    assert tuple(axes[0][0]) == tuple(range(x.ndim - count, x.ndim))
    assert tuple(axes[0][1]) == tuple(range(count))
    assert not axes[1][0]
    options = {"precision": precision, "preferred_element_type": preferred_element_type, "out_sharding": out_sharding}

    def plain(x: Array, kernel: Array) -> Array:
        return jax.lax.dot_general(x, kernel, axes, **options)

    def forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
        return plain(x, kernel), (x, kernel)

    def derived(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        (by_x,) = jax.linear_transpose(lambda x: plain(x, kernel), x)(gradient)
        (by_kernel,) = jax.linear_transpose(lambda kernel: plain(x, kernel), kernel)(gradient)
        return by_x, by_kernel

    def direct(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        wide, inputs = jnp.promote_types(x.dtype, gradient.dtype), math.prod(x.shape[x.ndim - count :])
        rows, weights = x.reshape(-1, inputs).astype(wide), kernel.reshape(inputs, -1).astype(wide)
        by_rows = gradient.reshape(-1, weights.shape[1]).astype(wide)
        by_x = jax.lax.dot_general(by_rows, weights, (((1,), (1,)), ((), ())), precision)
        by_kernel = jax.lax.dot_general(rows, by_rows, (((0,), (0,)), ((), ())), precision)
        return by_x.reshape(x.shape).astype(x.dtype), by_kernel.reshape(kernel.shape).astype(kernel.dtype)

    def backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
        return jax.lax.platform_dependent(*saved, gradient, cpu=direct, default=derived)

    function = jax.custom_vjp(plain)
    function.defvjp(forward, backward)
    return function(x, kernel)
