"""A picture of the grains that a DQ-VAE chose, over the image."""

import jax.numpy as jnp
from einops import repeat
from jaxtyping import Array, Float, Int

COLOURS = {2: ((40, 70, 220), (230, 40, 40)), 3: ((40, 70, 220), (235, 185, 40), (230, 40, 40))}
"""By the number of grains, from coarse to fine: blue, (yellow,) red; in 0..255."""
VEIL = 0.45
"""The share of the colour in a pixel."""


def grain_map(
    image: Float[Array, "b height width 3"], grain: Int[Array, "b h w"], grains: int
) -> Float[Array, "b height width 3"]:
    """Images in [-1, 1] under a veil: blue over regions of the coarsest grain, red over those of the finest.

    `grain` says the grain of each region of an image, 0 for the coarsest of `grains` (2 or 3).
    """
    colours = jnp.asarray(COLOURS[grains], jnp.float32)[grain] / 127.5 - 1
    rows, columns = image.shape[1] // grain.shape[1], image.shape[2] // grain.shape[2]
    veil = repeat(colours, "b h w c -> b (h r) (w s) c", r=rows, s=columns)
    return (1 - VEIL) * image + VEIL * veil
