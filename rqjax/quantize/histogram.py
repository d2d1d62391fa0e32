"""How evenly codes are used."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def hits(
    codes: Int[Array, "b ..."], size: int, counts: Bool[Array, "b ..."] | Float[Array, "b ..."]
) -> Float[Array, "size"]:
    """How often each code occurs; a code counts as much as its entry of `counts`, of the shape of `codes`."""
    return jax.ops.segment_sum(counts.astype(jnp.float32).reshape(-1), codes.reshape(-1), size)


def histogram(codes: Int[Array, "..."], size: int) -> Float[Array, "size"]:
    """The share of `codes` that each code has; sums to 1."""
    return hits(codes.reshape(-1), size, jnp.ones(codes.size)) / max(codes.size, 1)


def usage(codes: Int[Array, "..."], size: int) -> Float[Array, ""]:
    """The fraction of the book that occurs among `codes`, in [0, 1]."""
    return jnp.mean((histogram(codes, size) > 0).astype(jnp.float32))


def perplexity(codes: Int[Array, "..."], size: int) -> Float[Array, ""]:
    """The number of equally frequent codes with the same entropy, from 1 to `size`."""
    share = histogram(codes, size)
    return jnp.exp(-jnp.sum(share * jnp.log(share + 1e-10)))
