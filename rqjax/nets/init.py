"""Initial values as PyTorch draws them, and the types that networks compute in."""

import math

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
"""The types of computation, by their name in a configuration; parameters are float32."""


def torch_uniform(fan_in: int) -> Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for kernel and bias of convolutions and linear layers."""
    bound = 1 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        return jax.random.uniform(key, shape, dtype, -bound, bound, out_sharding=out_sharding)

    return init
