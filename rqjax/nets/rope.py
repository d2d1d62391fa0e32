"""Rotary positions along the two axes of a grid (RoPE, Su et al. 2021)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def rope_angles(prefix: int, height: int, width: int, size: int) -> Float[np.ndarray, "tokens pairs"]:
    """The angle by which each pair of a head's `size` features turns, for `prefix` tokens and then a grid's, by row.

    A quarter of the features' frequencies, 1 to 1/10000, go with the row and a quarter with the column, both from 1 on;
    tokens in front of the grid do not turn. `size` is a multiple of 4.
    """
    frequency = 10000.0 ** (-np.arange(size // 4) / (size // 4))
    row, column = (1 + x.reshape(-1, 1) for x in np.indices((height, width)))
    grid = np.concatenate([row * frequency, column * frequency], axis=-1)
    return np.concatenate([np.zeros((prefix, size // 2)), grid]).astype(np.float32)


def rotate(x: Float[Array, "b n heads size"], angles: Float[Array, "#b n pairs"]) -> Float[Array, "b n heads size"]:
    """`x` with feature i and feature i + size / 2 of every head turned by an angle, as one pair; float32."""
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
