"""Quantizer dropout: in training, some rows keep only their first codes, so that those mean more (XQ-GAN)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def keep_first(
    partial: Float[Array, "depth *grid dim"], key: Key[Array, ""], share: float, at_least: int
) -> Float[Array, "*grid dim"]:
    """Of the sums up to each depth those of the last, but for rows of the grid's first axis that are hit.

    Each is hit with probability `share` and keeps a number of depths drawn uniformly from `at_least` to all.
    """
    depth, rows = partial.shape[0], partial.shape[1] if partial.ndim > 2 else 1
    hit_key, many_key = jax.random.split(key)
    many = jax.random.randint(many_key, (rows,), at_least, depth + 1)
    many = jnp.where(jax.random.bernoulli(hit_key, share, (rows,)), many, depth)
    by_row = partial.reshape(depth, rows, -1)
    return by_row[many - 1, jnp.arange(rows)].reshape(partial.shape[1:])
