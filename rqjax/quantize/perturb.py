"""Codes in the place of others that lie near: the latent perturbation of RobustTok, like a prior's mistakes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from rqjax.quantize.residual import Book

TOGETHER = 1024
"""Codes whose neighbours are looked for at once: in a book of 16,384 their distances take 64 MB."""


def choices(
    keys: Key[Array, "b"], shape: Sequence[int], share: float, among: int
) -> tuple[Bool[Array, "b ..."], Int[Array, "b ..."]]:
    """For each place [b *shape] whether it is perturbed, which a share of them is, and a rank below `among`.

    Those of an image come from its own key.
    """

    def of_one(key: Key[Array, ""]) -> tuple[Array, Array]:
        first, second = jax.random.split(key)
        return jax.random.bernoulli(first, share, tuple(shape)), jax.random.randint(second, tuple(shape), 0, among)

    return jax.vmap(of_one)(keys)


def near(book: Book, codes: Int[Array, "*grid"], ranks: Int[Array, "*grid"], among: int) -> Int[Array, "*grid"]:
    """In the place of each code the one of that rank among the `among` nearest to it in its book, itself the first.

    In a smaller book all codes are its nearest: a rank counts modulo their number.
    """
    table = book.vectors(jnp.arange(book.size))
    squares, most = jnp.sum(jnp.square(table), axis=-1), min(among, book.size)

    def of_one(at: tuple[Array, Array]) -> Int[Array, ""]:
        code, rank = at
        return jax.lax.top_k(2 * table @ table[code] - squares, most)[1][rank % most]

    found = jax.lax.map(of_one, (codes.reshape(-1), ranks.reshape(-1)), batch_size=TOGETHER)
    return found.reshape(codes.shape).astype(codes.dtype)
