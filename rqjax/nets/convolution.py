"""Convolutions for a CPU: kernel gradients are matrix products, and wide ones take two thirds of the multiplications.

There the compiler's own kernel gradient takes several times as long as the forward pass. On other platforms nothing
changes, and neither does it for small ones.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LARGE = 128 * 128
"""Positions of an image from which products are faster, however few the channels (benchmarks/kernel_gradients.py)."""
MUCH = 2**26
"""Multiplications of one element of the kernel's window from which they are, however small the image."""
TOGETHER = 1024
"""Positions that are multiplied at once, so that they stay in a core's cache."""
WIDE, CHANNELS = 32, 64
"""The width of an image and the channels on either side from which pairs of rows are convolved at once."""


def convolve(
    x: Float[Array, "b h w inputs"],
    kernel: Float[Array, "kh kw inputs outputs"],
    strides: tuple[int, ...],
    padding: Any,
    **options: Any,
) -> Float[Array, "b h2 w2 outputs"]:
    """jax.lax.conv_general_dilated for nnx.Conv; 3x3 kernels of stride 1 as this module says."""
    b, h, w, inputs = x.shape
    common = kernel.shape[:2] == (3, 3) and tuple(strides) == (1, 1) and padding == "SAME"
    worth = h * w >= LARGE or b * h * w * inputs * kernel.shape[-1] >= MUCH
    if common and worth and h % _rows(b, h, w) == 0:
        return _convolve(x, kernel)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def _rows(batch: int, height: int, width: int) -> int:
    """The rows of a batch of images that make one block."""
    return max(1, min(height, TOGETHER // (batch * width)))


def _plain(x: Float[Array, "b h w inputs"], kernel: Float[Array, "kh kw inputs outputs"]) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _same(x: Float[Array, "b h w inputs"], kernel: Float[Array, "3 3 inputs outputs"]) -> Array:
    """The padded convolution of stride 1, on a CPU in pairs of rows if it is a wide one of float32."""
    _, h, w, _ = x.shape
    if h % 2 or w < WIDE or min(kernel.shape[2:]) < CHANNELS or x.dtype != jnp.float32:
        return _plain(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=in_pairs_of_rows, default=_plain)


def in_pairs_of_rows(
    x: Float[Array, "b h w inputs"], kernel: Float[Array, "3 3 inputs outputs"]
) -> Float[Array, "b h w outputs"]:
    """The padded 3x3 convolution of stride 1 for even `h`, of the same numbers but for rounding.

    Two neighbouring rows of outputs see four rows of inputs, and need four products with rows of the kernel instead of
    six: the algorithm F(2, 3) of Winograd, down the columns alone (Lavin & Gray 2016, section 4.1). Its factors are 1
    and 1/2; rounding errors of 128 channels were 1.6 times those of the plain sum.
    """
    b, h, w, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    above, first, second, below = (padded[:, i : i + h - 1 : 2] for i in range(4))
    rows = above - second, first + second, second - first, first - below
    top, middle, bottom = kernel
    kernels = top, (top + middle + bottom) / 2, (top - middle + bottom) / 2, bottom
    m = [_plain(row, one[None]) for row, one in zip(rows, kernels, strict=True)]
    return jnp.stack([m[0] + m[1] + m[2], m[1] - m[2] - m[3]], axis=2).reshape(b, h, w, -1)


@jax.custom_vjp
def _convolve(x: Float[Array, "b h w inputs"], kernel: Float[Array, "3 3 inputs outputs"]) -> Array:
    return _same(x, kernel)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _same(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], gradient: Float[Array, "b h w outputs"]) -> tuple[Array, Array]:
    x, kernel = saved
    by_input = _same(gradient, kernel[::-1, ::-1].swapaxes(2, 3))

    def plain(x: Array, gradient: Array) -> Array:
        return jax.linear_transpose(lambda kernel: _plain(x, kernel), kernel)(gradient)[0]

    products = functools.partial(kernel_gradient, dtype=kernel.dtype)
    return by_input, jax.lax.platform_dependent(x, gradient, cpu=products, default=plain)


def kernel_gradient(
    x: Float[Array, "b h w inputs"], gradient: Float[Array, "b h w outputs"], dtype: Any
) -> Float[Array, "3 3 inputs outputs"]:
    """The gradient of a padded 3x3 convolution of stride 1 by its kernel, as nine products summed over blocks of rows.

    Of input and gradient the narrower is the one that is shifted.
    """
    if gradient.shape[-1] < x.shape[-1]:
        # the same sum with the shift on the other side: neighbours change sign, so the kernel is turned
        return kernel_gradient(gradient, x, dtype)[::-1, ::-1].swapaxes(2, 3)
    b, h, w, inputs = x.shape
    rows = _rows(b, h, w)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def add(totals: list[Array], block: Array) -> tuple[list[Array], None]:
        here = jax.lax.dynamic_slice_in_dim(padded, block * rows, rows + 2, axis=1)
        of_outputs = jax.lax.dynamic_slice_in_dim(gradient, block * rows, rows, axis=1).reshape(-1, gradient.shape[-1])
        shifted = (here[:, i : i + rows, j : j + w].reshape(-1, inputs) for i in range(3) for j in range(3))
        product = functools.partial(jnp.einsum, "np,nq->pq", preferred_element_type=jnp.float32)
        return [total + product(x, of_outputs) for total, x in zip(totals, shifted, strict=True)], None

    # an array for each place of the window: side by side in one they would be copied there first
    totals = [jnp.zeros((inputs, gradient.shape[-1]), jnp.float32)] * 9
    return jnp.stack(jax.lax.scan(add, totals, jnp.arange(h // rows))[0]).reshape(3, 3, inputs, -1).astype(dtype)


_convolve.defvjp(_forward, _backward)
