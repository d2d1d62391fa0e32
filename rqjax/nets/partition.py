"""How computations of images lie on a mesh: images stay where they are, and weights come to them.

Left to itself, the partitioner would at times gather the activations of the whole batch to meet a kernel that is split.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from einops import rearrange
from flax.nnx.nn.dtypes import promote_dtype
from jaxtyping import Array, Float, PyTree

from rqjax.mesh import constrain, shards

T = TypeVar("T")


def by_batch(x: Float[Array, "b *rest"]) -> Float[Array, "b *rest"]:
    """x, pinned to the data axis of the mesh where that divides the batch; a preview of one image stays whole."""
    return x if x.shape[0] % shards(jax.sharding.get_abstract_mesh()) else constrain(x, "data")


def in_pieces(compute: Callable[..., T], rows: PyTree[Array], most: int) -> T:
    """`compute(rows)` for arrays [b ...], whose results are so too, for at most `most` rows of a device at once.

    Each device takes its own rows piece by piece, so that nothing moves between devices. Pieces are equal: of a prime
    number of rows they have one row.
    """
    parts, b = shards(jax.sharding.get_abstract_mesh()), jax.tree.leaves(rows)[0].shape[0]
    parts = 1 if b % parts else parts
    each = b // parts
    size = max(n for n in range(1, min(most, each) + 1) if each % n == 0) if each else 0
    if size == each:
        return compute(rows)

    def split(x: Array) -> Array:
        x = rearrange(x, "(parts pieces size) ... -> pieces (parts size) ...", parts=parts, size=size)
        return constrain(x, None, "data") if parts > 1 else x

    def joined(x: Array) -> Array:
        x = rearrange(x, "pieces (parts size) ... -> (parts pieces size) ...", parts=parts)
        return constrain(x, "data") if parts > 1 else x

    return jax.tree.map(joined, jax.lax.map(compute, jax.tree.map(split, rows)))


def gathered(arrays: Any, /, *, dtype: Any = None, inexact: bool = True) -> Any:
    """(inputs, kernel, bias) in `dtype`, inputs by batch and weights whole on every device: nnx.Conv's promote_dtype.

    Weights are cast where they live, so that what travels has the size of `dtype`.
    """
    inputs, *weights = promote_dtype(arrays, dtype=dtype, inexact=inexact)
    return (by_batch(inputs), *(None if x is None else constrain(x) for x in weights))
