"""The kernel gradient of a 3x3 convolution on a CPU: the compiler's own against matrix products.

    python benchmarks/kernel_gradients.py [IMAGES,SIDE,INPUTS,OUTPUTS ...]

Prints the medians of five runs each, in turn, and their ratio; nets/convolution.py uses products from LARGE positions
or MUCH multiplications on. Asserts nothing.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from rqjax.nets.convolution import kernel_gradient

SHAPES = (
    "1,256,128,128",
    "1,256,128,3",
    "1,128,256,256",
    "4,128,128,128",
    "1,64,256,256",
    "1,32,512,512",
    "32,32,64,64",
)


def plain(x: jax.Array, gradient: jax.Array) -> jax.Array:
    kernel = jnp.zeros((3, 3, x.shape[-1], gradient.shape[-1]))

    def convolve(kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    return jax.vjp(convolve, kernel)[1](gradient)[0]


def seconds(function: Callable[..., Any], *arguments: jax.Array) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start


def medians(ways: Sequence[Callable[..., Any]], *arguments: jax.Array) -> list[float]:
    """The median seconds of each way of five runs in turn, after one that compiles."""
    for way in ways:
        seconds(way, *arguments)
    rounds = [[seconds(way, *arguments) for way in ways] for _ in range(5)]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def main() -> None:
    table = Table("images, side, inputs, outputs", "compiler's, ms", "products, ms", "ratio")
    ways = jax.jit(plain), jax.jit(lambda x, gradient: kernel_gradient(x, gradient, jnp.float32))
    for shape in sys.argv[1:] or SHAPES:
        images, side, inputs, outputs = map(int, shape.split(","))
        x, gradient = jnp.ones((images, side, side, inputs)), jnp.ones((images, side, side, outputs))
        own, products = medians(ways, x, gradient)
        table.add_row(shape, f"{1000 * own:.0f}", f"{1000 * products:.0f}", f"{own / products:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
