"""Structural similarity (Wang, Bovik, Sheikh and Simoncelli, Image quality assessment, 2004)."""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

WINDOW = 11
"""Pixels of a side of the Gaussian window."""
SIGMA = 1.5
K1, K2 = 0.01, 0.03
MIDDLE = 0.5
"""Taken off before squares are averaged: variances stay, and float32 keeps three more bits of them."""


def ssim(image: Float[Array, "b h w c"], other: Float[Array, "b h w c"]) -> Float[Array, "b"]:
    """The mean similarity of each pair of images with values in [0, 1], over channels and all whole windows; at most 1.

    Section III.B, with data range 1; borders, where a window is not whole, are left out. Raises ValueError for images
    smaller than a window.
    """
    if min(image.shape[1:3]) < WINDOW:
        raise ValueError(f"images of {image.shape[1]}x{image.shape[2]}: SSIM needs {WINDOW}x{WINDOW} pixels or more")
    similarity, _ = by_channel(image, other)
    return jnp.mean(similarity, axis=1)


def by_channel(
    image: Float[Array, "b h w c"], other: Float[Array, "b h w c"]
) -> tuple[Float[Array, "b c"], Float[Array, "b c"]]:
    """The mean similarity of each channel, and that of contrast and structure alone (equation 9), without luminance."""
    x, y = image - MIDDLE, other - MIDDLE
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _local_means(jnp.stack([x, y, x * x, y * y, x * y]))
    variance_x, variance_y = mean_xx - mean_x**2, mean_yy - mean_y**2
    covariance = mean_xy - mean_x * mean_y
    mean_x, mean_y = mean_x + MIDDLE, mean_y + MIDDLE
    luminance = (2 * mean_x * mean_y + K1**2) / (mean_x**2 + mean_y**2 + K1**2)
    structure = (2 * covariance + K2**2) / (variance_x + variance_y + K2**2)
    return jnp.mean(luminance * structure, axis=(1, 2)), jnp.mean(structure, axis=(1, 2))


def _local_means(maps: Float[Array, "n b h w c"]) -> Float[Array, "n b h2 w2 c"]:
    """The Gaussian mean of every whole window, one axis after the other."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    weights = jnp.asarray(weights / weights.sum(), maps.dtype)
    n, b, _, _, c = maps.shape
    planes = rearrange(maps, "n b h w c -> (b n c) 1 h w")
    for kernel in (weights[:, None], weights[None]):
        planes = jax.lax.conv(planes, kernel[None, None], (1, 1), "VALID", precision=jax.lax.Precision.HIGHEST)
    return rearrange(planes, "(b n c) 1 h w -> n b h w c", n=n, b=b, c=c)
