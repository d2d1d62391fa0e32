"""Weights of a prior's layers in eight bits: at each token a sampler reads all of them, and they fill a small chip.

A kernel is stored as int8 numbers with a float32 scale for each output channel, the largest of its absolute values by
127. Activations stay floats: a product takes the numbers as they are, and its result is multiplied by the scales.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from rqjax.nets.transformer import Block, Stack

LARGEST = 127
"""The numbers run from -127 to 127, so that both signs reach as far."""
LAYERS = ("query", "key", "value", "proj", "up", "down", "cross_query", "cross_key", "cross_value", "cross_proj")
"""The linear layers of a block, those of cross-attention if it has one."""


class Int8Linear(nnx.Module):
    """A linear layer over the last axes of its input, as `nnx.LinearGeneral` is, with its kernel in int8."""

    def __init__(self, layer: nnx.LinearGeneral):
        kernel = layer.kernel[...].astype(jnp.float32)  # [*inputs, *outputs]
        inputs = tuple(range(len(layer.axis)))
        largest = jnp.max(jnp.abs(kernel), axis=inputs)
        scale = jnp.where(largest > 0, largest, 1) / LARGEST
        self.kernel = nnx.Param(jnp.round(kernel / scale).astype(jnp.int8))
        self.scale = nnx.Param(scale)
        self.bias = None if layer.bias is None else nnx.Param(layer.bias[...])
        self.dtype: DTypeLike = layer.dtype or jnp.float32

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The output in the compute dtype; sums, scales and bias in float32."""
        count = self.kernel.ndim - self.scale.ndim
        axes = tuple(range(x.ndim - count, x.ndim)), tuple(range(count))
        kernel = self.kernel[...].astype(self.dtype)  # exact: bfloat16 has all whole numbers to 256
        y = jax.lax.dot_general(x.astype(self.dtype), kernel, (axes, ((), ())), preferred_element_type=jnp.float32)
        y = y * self.scale[...]
        return (y if self.bias is None else y + self.bias[...].astype(jnp.float32)).astype(self.dtype)


def kernel_of(layer: nnx.LinearGeneral | Int8Linear) -> Float[Array, "..."]:
    """The kernel [*inputs, *outputs] of a linear layer; that of an int8 one in its compute dtype."""
    if isinstance(layer, Int8Linear):
        return (layer.kernel[...].astype(jnp.float32) * layer.scale[...]).astype(layer.dtype)
    return layer.kernel[...]


def in_int8(network: nnx.Module) -> nnx.Module:
    """A copy of a network whose causal stacks, those that draw, have the kernels of their layers in int8."""
    network = jax.tree.map(lambda x: x, network)
    for _, module in list(nnx.iter_modules(network)):
        if isinstance(module, Stack) and module.causal and module.blocks is not None:
            module.blocks = jax.vmap(_block)(module.blocks)
    return network


def _block(block: Block) -> Block:
    for name in LAYERS:
        if hasattr(block, name):
            setattr(block, name, Int8Linear(getattr(block, name)))
    return block
