"""Dropout whose mask is cheap: a hash of each element's place, started by the key.

JAX's own generator takes twenty rounds for a number, which is most of the time of attention with dropout on a CPU. A
mask needs less than a cryptographic generator. It keeps what is promised: it is a function of the key and of the places
alone, so a mesh does not change it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt32


def dropout(key: Key[Array, ""] | None, x: Float[Array, "*shape"], rate: float) -> Float[Array, "*shape"]:
    """`x` with a fraction `rate` of its elements zeroed and the others scaled up; `x` itself without key or rate."""
    if key is None or rate == 0.0:
        return x
    kept = hashed(key, x.shape) >= jnp.uint32(round(rate * 2**32))
    return jnp.where(kept, x / (1.0 - rate), 0.0).astype(x.dtype)


def hashed(key: Key[Array, ""], shape: tuple[int, ...]) -> UInt32[Array, "*shape"]:
    """Numbers of 32 bits, one for each place of an array of `shape`: two rounds of a hash, each begun by half of a key.

    With one round the numbers of two keys would be the same ones at other places. Places are counted modulo 2**32.
    """
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    place, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        along = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        place, stride = place + along * jnp.uint32(stride % 2**32), stride * shape[axis]
    return _mixed(_mixed(place ^ first) ^ second)


def _mixed(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """A permutation of the numbers of 32 bits in which each bit depends on all: MurmurHash3's finalizer (Appleby)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
