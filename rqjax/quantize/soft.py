"""Soft codes: each depth's distribution over its book, which a prior may learn instead of the nearest code.

The distributions of a batch are [b n depth codes]: 16.8 MB for one image of the published models. So `draw` returns
residuals instead, and `distribution` recomputes the distribution of as few of them as fit. Books are given as tables
[codes dim] of their vectors: one for all depths, or one for each.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int, Key, Scalar

from rqjax.quantize.distance import distances, nearest

Tables = Sequence[Float[Array, "_ dim"]]


def distribution(
    tables: Tables, residuals: Float[Array, "*grid depth dim"], temperature: float | Scalar
) -> Float[Array, "*grid depth codes"]:
    """softmax(-squared distance / temperature) over the codes of each depth, in float32.

    Books of fewer codes than the largest have 0 in the place of those that they lack.
    """
    if len(tables) == 1:
        return jax.nn.softmax(_logits(tables[0], residuals, temperature))
    largest = max(table.shape[0] for table in tables)
    by_depth = []
    for depth in range(residuals.shape[-2]):
        share = jax.nn.softmax(_logits(tables[depth], residuals[..., depth, :], temperature))
        by_depth.append(jnp.pad(share, [(0, 0)] * (share.ndim - 1) + [(0, largest - share.shape[-1])]))
    return jnp.stack(by_depth, axis=-2)


def _logits(table: Array, residuals: Array, temperature: float | Scalar) -> Array:
    flat = residuals.reshape(-1, residuals.shape[-1])
    return (-distances(table, flat) / temperature).reshape(*residuals.shape[:-1], table.shape[0])


def draw(
    tables: Tables,
    z: Float[Array, "b n dim"],
    key: Key[Array, ""],
    depth: int,
    temperature: float | Scalar,
    stochastic: bool,
    chunk: int,
) -> tuple[Int[Array, "b n depth"], Float[Array, "b n depth dim"]]:
    """Codes drawn from their distributions (the nearest, if not stochastic), and the residual each was chosen for.

    Residuals follow the drawn codes. At most `chunk` positions of every row are looked at together; the result does not
    depend on it. Temperature is above 0.
    """
    n = z.shape[1]
    size = max(size for size in range(1, min(max(chunk, 1), n) + 1) if n % size == 0)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(n))

    def descend(position: tuple[Array, Array]) -> tuple[Array, Array]:
        """Codes [depth b] and residuals [depth b dim] of one position of every row."""
        x, key = position
        codes, residuals = [], []
        for index in range(depth):
            table = tables[0 if len(tables) == 1 else index]
            if stochastic:
                drawn = jax.random.categorical(jax.random.fold_in(key, index), _logits(table, x, temperature))
            else:
                drawn = nearest(table, x)
            codes.append(drawn.astype(jnp.int32))
            residuals.append(x)
            x = x - table[drawn]
        return jnp.stack(codes), jnp.stack(residuals)

    codes, residuals = jax.lax.map(descend, (rearrange(z, "b n d -> n b d"), keys), batch_size=size)
    return rearrange(codes, "n depth b -> b n depth"), rearrange(residuals, "n depth b d -> b n depth d")
