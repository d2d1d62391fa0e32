"""Rows of a global batch: which of them a host holds, and how it puts them onto its devices."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from rqjax.errors import InputError
from rqjax.mesh import rows as rows_of
from rqjax.mesh import shards

Place = Callable[[np.ndarray], jax.Array]


def placing(batch: int, mesh: Mesh) -> tuple[list[int], Place]:
    """The rows, in order, that this host's devices hold of a batch of that many, and a function that makes the global
    array [batch ...] of an array with these rows.

    Raises InputError if the data axis does not divide the batch.
    """
    if batch % (parts := shards(mesh)):
        raise InputError(f"data.batch={batch} is not a multiple of the {parts} parts that the mesh splits it into")
    sharding = NamedSharding(mesh, rows_of(mesh))
    held = {_bounds(index, batch) for index in sharding.addressable_devices_indices_map((batch,)).values()}
    rows = [row for first, last in sorted(held) for row in range(first, last)]
    position = {row: i for i, row in enumerate(rows)}

    def place(x: np.ndarray) -> jax.Array:
        def shard(index: tuple[slice, ...] | None) -> np.ndarray:
            first, last = _bounds(index, batch)
            return x[position[first] : position[first] + last - first]

        return jax.make_array_from_callback((batch, *x.shape[1:]), sharding, shard)

    return rows, place


def _bounds(index: tuple[slice, ...] | None, batch: int) -> tuple[int, int]:
    first, last, _ = (index or (slice(None),))[0].indices(batch)
    return first, last
