"""Squared distances between vectors and the vectors of codes, and the nearest code."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def distances(embed: Float[Array, "codes dim"], x: Float[Array, "n dim"]) -> Float[Array, "n codes"]:
    """Squared distances of every vector to every code, in float32 at the highest precision: near-ties decide codes."""
    embed, x = embed.astype(jnp.float32), x.astype(jnp.float32)
    products = jnp.matmul(x, embed.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(x**2, axis=1, keepdims=True) + jnp.sum(embed**2, axis=1) - 2 * products


def nearest(embed: Float[Array, "codes dim"], x: Float[Array, "n dim"]) -> Int[Array, "n"]:
    """The nearest code of every vector; of equally near ones the lowest."""
    return jnp.argmin(distances(embed, x), axis=1).astype(jnp.int32)
