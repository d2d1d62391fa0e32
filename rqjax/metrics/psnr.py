"""Peak signal-to-noise ratio."""

import jax.numpy as jnp
from jaxtyping import Array, Float

LEAST_ERROR = 1e-10
"""Mean squared error below which images count as equal: 100 dB, so that one equal pair leaves a mean finite."""


def psnr(image: Float[Array, "b h w c"], other: Float[Array, "b h w c"]) -> Float[Array, "b"]:
    """-10 log10 of the mean squared error of each pair of images with values in [0, 1]: dB, at most 100."""
    error = jnp.mean(jnp.square(image - other), axis=(1, 2, 3))
    return -10 * jnp.log10(jnp.maximum(error, LEAST_ERROR))
