"""Structural similarity over several scales (Wang, Simoncelli and Bovik, Multiscale structural similarity, 2003)."""

import jax.numpy as jnp
from einops import reduce
from jaxtyping import Array, Float

from rqjax.metrics.ssim import WINDOW, by_channel

EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of each scale, finest first: section 3.2."""


def ms_ssim(image: Float[Array, "b h w c"], other: Float[Array, "b h w c"]) -> Float[Array, "b"]:
    """The similarity of each pair of images with values in [0, 1], equation 7: at most 1, the mean over channels.

    Each scale halves the one before, by means of 2x2 pixels (an odd last row or column is left out); a negative
    structure counts as 0. Raises ValueError for images whose coarsest scale has no whole window: below 176 pixels.
    """
    least = WINDOW * 2 ** (len(EXPONENTS) - 1)
    if min(image.shape[1:3]) < least:
        raise ValueError(f"images of {image.shape[1]}x{image.shape[2]}: MS-SSIM needs {least}x{least} pixels or more")
    product = jnp.ones((image.shape[0], image.shape[3]))
    for scale, exponent in enumerate(EXPONENTS):
        if scale:
            image, other = _halved(image), _halved(other)
        similarity, structure = by_channel(image, other)
        factor = similarity if scale == len(EXPONENTS) - 1 else structure
        product *= jnp.maximum(factor, 0) ** exponent
    return jnp.mean(product, axis=1)


def _halved(image: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    height, width = image.shape[1] // 2 * 2, image.shape[2] // 2 * 2
    return reduce(image[:, :height, :width], "b (h i) (w j) c -> b h w c", "mean", i=2, j=2)
