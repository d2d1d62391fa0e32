"""Which position may follow in a sequence that covers every cell of an image exactly once."""

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Int

from rqjax.dq.sequence import SequenceLayout


def numbers(layout: SequenceLayout) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Per grain: how many cells it has, its end and its first start."""
    return tuple(grid * grid for grid in layout.grids), layout.position_eos, layout.position_sos


def owners(layout: SequenceLayout) -> np.ndarray:
    """For each grain, the cell of its grid that holds each cell of the finest, both in raster order."""
    fine = np.arange(layout.grids[-1])
    sides = [(fine // (layout.grids[-1] // grid), grid) for grid in layout.grids]
    return np.stack([(side[:, None] * grid + side[None]).reshape(-1) for side, grid in sides]).astype(np.int32)


def allowed(layout: SequenceLayout, free: Bool[Array, "b cells"], grain: Int[Array, "b"]) -> Bool[Array, "b positions"]:
    """Which positions an image may take next, given that it has not just ended a grain.

    A free cell of its grain, or the end: of the finest grain when nothing is free, of a coarser one at any time but
    within a region that it has begun, because a region has one grain.
    """
    cells, eos, _ = numbers(layout)
    region = layout.grids[-1] // layout.grids[0]
    regions = rearrange(free, "b (h r w s) -> b (h w) (r s)", h=layout.grids[0], r=region, s=region)
    begun = jnp.any(jnp.any(regions, -1) & ~jnp.all(regions, -1), -1)
    last = len(cells) - 1
    masks = []
    for g, owner in enumerate(owners(layout)):
        ends = ~jnp.any(free, -1) if g == last else ~begun
        # what covers a part of a cell of this grain covers all of it: coarser tokens and those of this grain alone
        first = np.unique(owner, return_index=True)[1]
        mask = jnp.zeros((free.shape[0], max(layout.position_sizes)), bool)
        masks.append(mask.at[:, : cells[g]].set(free[:, first]).at[:, eos[g]].set(ends))
    return jnp.take_along_axis(jnp.stack(masks), grain[None, :, None], axis=0)[0]


def remaining(layout: SequenceLayout, free: Bool[Array, "b cells"]) -> Int[Array, "b"]:
    """The first free cell of the finest grid in the order of the layout, or the end of its grain if there is none."""
    order = layout.cells(len(layout.grids) - 1)
    free = free[:, order]
    return jnp.where(jnp.any(free, -1), jnp.array(order)[jnp.argmax(free, -1)], layout.position_eos[-1])


def follow(
    layout: SequenceLayout,
    position: Int[Array, "b"],
    grain: Int[Array, "b"],
    chosen: Int[Array, "b"],
    labels: Int[Array, "b"],
) -> tuple[Int[Array, "b"], Int[Array, "b"]]:
    """The position after `position`, and its grain: after an end the next grain's start, otherwise the chosen one."""
    _, eos, sos = (jnp.array(x) for x in numbers(layout))
    ended = (position == eos[grain]) & (grain < len(layout.grids) - 1)
    grain = jnp.where(ended, grain + 1, grain)
    return jnp.where(ended, sos[grain] + labels, chosen), grain
