"""Linear layers for a few rows at a time, as a loop over tokens has them: the weights are what there is to read.

Kernels lie [outputs inputs], so that they are read in order. A CPU's library multiplies numbers of bfloat16 and of int8
as they are where two rows or more lie in one axis, and the result is float32 or int32. Elsewhere the compiler converts
the kernel first, all of it at each token, and takes four times as long as for a kernel of float32. So a lone row of
bfloat16 is multiplied twice, and each row of floats becomes two of int8.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int8, Shaped

from rqjax.mesh import platform
from rqjax.nets.int8 import LARGEST, Int8Linear, kernel_of

FINE = 2 * LARGEST
"""Steps of the second row of int8 in one of the first: what rounding leaves, half a step at most, is 127 of these."""


AXES = (((1,), (1,)), ((), ()))
"""Of a product of rows with a kernel: the inputs of both are summed over."""


class Linear(nnx.Module):
    """A linear layer with its outputs in front."""

    def __init__(self, kernel: Shaped[Array, "outputs inputs"], bias: Float[Array, "outputs"] | None):
        self.kernel = nnx.Param(kernel)
        self.bias = None if bias is None else nnx.Param(bias)

    def __call__(self, x: Float[Array, "b n inputs"]) -> Float[Array, "b n outputs"]:
        y = self.product(rearrange(x, "b n inputs -> (b n) inputs"))
        y = rearrange(y, "(b n) outputs -> b n outputs", b=len(x))
        return y if self.bias is None else y + self.bias[...]

    def product(self, rows: Float[Array, "rows inputs"]) -> Float[Array, "rows outputs"]:
        """The rows by the kernel, in the kernel's type."""
        kernel = self.kernel[...]
        wide = jnp.float32 if platform() == "cpu" else kernel.dtype
        both = twice(rows.astype(kernel.dtype))
        return jax.lax.dot_general(both, kernel, AXES, preferred_element_type=wide)[: len(rows)].astype(kernel.dtype)


class LinearInt8(Linear):
    """The same with a kernel of int8 numbers, which a float32 `scale` of each output multiplies; see nets.int8."""

    def __init__(
        self,
        kernel: Int8[Array, "outputs inputs"],
        scale: Float[Array, "outputs"],
        bias: Float[Array, "outputs"] | None,
    ):
        super().__init__(kernel, bias)
        self.scale = nnx.Param(scale)

    def product(self, rows: Float[Array, "rows inputs"]) -> Float[Array, "rows outputs"]:
        """The rows by what the kernel stands for, each rounded to 1/64,516 of its largest number."""
        largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True).astype(jnp.float32)
        step = jnp.where(largest > 0, largest, 1) / LARGEST
        number = rows / step
        steps = jnp.round(number)
        rest = jnp.round((number - steps) * FINE)
        both = jnp.concatenate([steps, rest]).astype(jnp.int8)
        sums = jax.lax.dot_general(both, self.kernel[...], AXES, preferred_element_type=jnp.int32).astype(jnp.float32)
        return ((sums[: len(rows)] + sums[len(rows) :] / FINE) * step * self.scale[...]).astype(rows.dtype)


def kept_int8(kernel: Array | jax.ShapeDtypeStruct) -> bool:
    """Whether a kernel is of int8 and multiplied as it is: on a CPU."""
    return kernel.dtype == jnp.int8 and platform() == "cpu"


def twice(rows: Float[Array, "rows inputs"]) -> Float[Array, "two_or_more inputs"]:
    """A lone row of bfloat16 twice on a CPU, else the rows as they are."""
    lone = len(rows) == 1 and rows.dtype == jnp.bfloat16 and platform() == "cpu"
    return jnp.concatenate([rows, rows]) if lone else rows


def joined(layers: Sequence[nnx.LinearGeneral | Int8Linear], kernels: str, outputs: str) -> Linear:
    """One layer with the outputs of several that have the same input; on a CPU those of int8 stay in int8.

    `kernels` and `outputs` are einops patterns: of the layers' kernels, in a row, to [outputs inputs], and of their
    biases to [outputs].
    """
    biases = [x.bias[...] for x in layers if x.bias is not None]
    bias = rearrange(biases, outputs) if biases else None
    if small := [x for x in layers if isinstance(x, Int8Linear) and kept_int8(x.kernel[...])]:
        scale = rearrange([x.scale[...] for x in small], outputs)
        return LinearInt8(rearrange([x.kernel[...] for x in small], kernels), scale, bias)
    return Linear(rearrange([kernel_of(x) for x in layers], kernels), bias)
