"""Initial values as PyTorch draws them, and the types that networks compute in."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer
from jaxtyping import Array, Key

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
"""The types of computation, by their name in a configuration; parameters are float32."""


class Rngs(nnx.Rngs):
    """The keys of `nnx.Rngs(key)` for a network's initial values, in their order.

    The count of keys drawn is a Python number. Flax keeps an array, and asks the traced array for its sharding each
    time it grows, which has none: composing that error's message took a third of the time to trace a DQ-VAE.
    """

    def __init__(self, key: Key[Array, ""] | int):
        super().__init__(key)
        self.drawn = 0

    def params(self) -> Key[Array, ""]:
        """The next key."""
        key = jax.random.fold_in(self.default.key[...], self.drawn)
        self.drawn += 1
        return key


def torch_uniform(fan_in: int) -> Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for kernel and bias of convolutions and linear layers."""
    bound = 1 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        return jax.random.uniform(key, shape, dtype, -bound, bound, out_sharding=out_sharding)

    return init
