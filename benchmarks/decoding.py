"""The parts of a token's time when a prior draws on a CPU: products with kernels, attention over a cache, the draw.

    PYTHONPATH=. .venv/bin/python benchmarks/decoding.py

Prints how many weights a second products of few rows take, in each precision, of 16 pairs of 1,024 to 4,096 and back
as of an MLP, more than a cache holds; the time of attention over a cache of 1,027 tokens of a lone image with its heads
in one row, as in a batch of others, and in two (nets/caches.py); and that of a draw by top-k and top-p beside the same
with Gumbel noise for each code and all rows at once. Medians of five runs. Asserts nothing.
"""

import functools

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from benchmarks.kernel_gradients import medians
from rqjax.nets.by_rows import Linear, LinearInt8
from rqjax.nets.caches import Cache, attend, write
from rqjax.nets.filters import filter_logits
from rqjax.nets.int8 import LARGEST
from rqjax.nets.precision import INT8, PRECISIONS, computed
from rqjax.nets.sampling import Draw, draws_of

PAIRS, WIDE, STEPS = 16, 4096, 2
"""Layers, the width of an MLP, and how often a loop reads all of its weights."""
TOKENS, HEADS, SIZE = 1027, 8, 128
"""Of DQ-Transformer's caches."""
REPEATS = 32


def made(dtype: str, key: jax.Array, shape: tuple[int, int]) -> Linear:
    """A layer of random weights."""
    if dtype == INT8:
        numbers = jax.random.randint(key, shape, -LARGEST, LARGEST + 1, jnp.int8)
        return LinearInt8(numbers, jnp.full(shape[0], 1 / LARGEST / WIDE), None)
    return Linear((jax.random.normal(key, shape) / WIDE).astype(dtype), None)


def products(rows: int, dtype: str) -> float:
    """How many weights a second are multiplied with so many rows."""
    keys = jax.random.split(jax.random.key(0), 2 * PAIRS)
    shapes = [(WIDE, WIDE // 4), (WIDE // 4, WIDE)] * PAIRS
    layers = [made(dtype, key, shape) for key, shape in zip(keys, shapes, strict=True)]

    @jax.jit
    def loop(layers: list[Linear], x: jax.Array) -> jax.Array:
        def step(_: jax.Array, x: jax.Array) -> jax.Array:
            for up, down in zip(layers[::2], layers[1::2], strict=True):
                x = x + down(up(x))
            return x

        return jax.lax.fori_loop(0, STEPS, step, x)

    (seconds,) = medians([functools.partial(loop, layers)], jnp.ones((rows, 1, WIDE // 4), computed(dtype)))
    return STEPS * sum(a * b for a, b in shapes) / seconds


def attention(rows: int) -> float:
    """Seconds of one token's attention with a lone image's heads in so many rows of a cache."""

    @jax.jit
    def loop(x: jax.Array) -> jax.Array:
        empty = jnp.zeros((rows, HEADS // rows, TOKENS, SIZE))

        def step(i: jax.Array, carry: tuple[jax.Array, Cache]) -> tuple[jax.Array, Cache]:
            x, cache = carry
            cache = Cache(write(cache.keys, x, i), write(cache.values, x / 2, i))
            return x + attend(x, [cache], jnp.arange(TOKENS)[None] <= i), cache

        return jax.lax.fori_loop(0, REPEATS, step, (x, Cache(empty, empty)))[0]

    return medians([loop], jnp.ones((1, 1, HEADS, SIZE)))[0] / REPEATS


def drawing(rows: int, codes: int) -> list[float]:
    """Seconds of a draw with a number for each code, and of ours."""
    draws = draws_of(Draw(top_k=codes // 16, top_p=0.95), ["codes"])

    def noisy(keys: jax.Array, logits: jax.Array) -> jax.Array:
        filtered = filter_logits(logits, draws.temperature[0], draws.top_k[0], draws.top_p[0])
        return jax.vmap(jax.random.categorical)(keys, filtered)

    keys, logits = jax.random.split(jax.random.key(0), rows), jax.random.normal(jax.random.key(1), (rows, codes))
    return medians([jax.jit(noisy), jax.jit(functools.partial(draws.draw, 0))], keys, logits)


def main() -> None:
    table = Table("10^9 weights a second, of rows", *PRECISIONS)
    for rows in (1, 2, 8, 64):
        table.add_row(str(rows), *(f"{products(rows, dtype) / 1e9:.1f}" for dtype in PRECISIONS))
    Console().print(table)
    table = Table("a lone image's heads lie in", "ms", "GB/s of its cache")
    for rows, name in ((1, "one row"), (2, "two rows")):
        seconds = attention(rows)
        read = 2 * 4 * TOKENS * HEADS * SIZE / seconds / 1e9
        table.add_row(name, f"{1000 * seconds:.2f}", f"{read:.1f}")
    Console().print(table)
    table = Table("rows", "codes", "noise for each code, ms", "sampling.py, ms", "ratio")
    for rows, codes in ((1, 16384), (8, 16384), (64, 16384), (8, 2048)):
        noisy, ours = drawing(rows, codes)
        table.add_row(str(rows), str(codes), f"{1000 * noisy:.2f}", f"{1000 * ours:.2f}", f"{noisy / ours:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
