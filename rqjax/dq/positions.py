"""The positions that may follow in a sequence which covers every cell of an image exactly once."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Int

from rqjax.dq.sequence import SequenceLayout, Tokens


def owners(layout: SequenceLayout) -> np.ndarray:
    """For each grain, the cell of its grid that holds each cell of the finest, both in raster order: [grains cells]."""
    fine = np.arange(layout.grids[-1])
    sides = [(fine // (layout.grids[-1] // grid), grid) for grid in layout.grids]
    return np.stack([(side[:, None] * grid + side[None]).reshape(-1) for side, grid in sides]).astype(np.int32)


def covered(layout: SequenceLayout, tokens: Tokens) -> Bool[Array, "b cells"]:
    """The cells of the finest grid that one token of each image [b] covers: none for starts, ends and pads."""
    return jnp.asarray(owners(layout))[tokens.grain] == tokens.position[:, None]


def allowed(layout: SequenceLayout, free: Bool[Array, "b cells"], grain: Int[Array, "b"]) -> Bool[Array, "b positions"]:
    """The positions that an image may take next, given that it has not just ended a grain.

    They are the free cells of its grain, and its end: that of the finest grain when nothing is free, that of a coarser
    one at any time but within a region that it has begun, because a region has one grain.
    """
    region = layout.grids[-1] // layout.grids[0]
    regions = rearrange(free, "b (h r w s) -> b (h w) (r s)", h=layout.grids[0], r=region, s=region)
    begun = jnp.any(jnp.any(regions, -1) & ~jnp.all(regions, -1), -1)
    masks = []
    for g, owner in enumerate(owners(layout)):
        ends = ~jnp.any(free, -1) if g == layout.grains - 1 else ~begun
        # what covers a part of a cell of this grain covers all of it: coarser tokens and those of this grain alone
        first = np.unique(owner, return_index=True)[1]
        mask = jnp.zeros((free.shape[0], max(layout.position_sizes)), bool)
        masks.append(mask.at[:, : layout.cells[g]].set(free[:, first]).at[:, layout.position_end[g]].set(ends))
    return jnp.take_along_axis(jnp.stack(masks), grain[None, :, None], axis=0)[0]


def remaining(layout: SequenceLayout, free: Bool[Array, "b cells"]) -> Int[Array, "b"]:
    """The first free cell of the finest grid in the order of the layout, or the end of its grain if there is none."""
    order = layout.visited(layout.grains - 1)
    free = free[:, order]
    return jnp.where(jnp.any(free, -1), jnp.array(order)[jnp.argmax(free, -1)], layout.position_end[-1])


def follow(
    layout: SequenceLayout,
    position: Int[Array, "b"],
    grain: Int[Array, "b"],
    chosen: Int[Array, "b"],
    starts: Int[Array, "b"],
) -> tuple[Int[Array, "b"], Int[Array, "b"]]:
    """The position after `position`, and its grain: after an end the next grain's start, otherwise the chosen one."""
    ended = (position == jnp.array(layout.position_end)[grain]) & (grain < layout.grains - 1)
    grain = jnp.where(ended, grain + 1, grain)
    return jnp.where(ended, jnp.array(layout.position_start)[grain] + starts, chosen), grain


def contents(
    layout: SequenceLayout,
    position: Int[Array, "b"],
    grain: Int[Array, "b"],
    drawn: Int[Array, "b"],
    starts: Int[Array, "b"],
) -> Int[Array, "b"]:
    """The content of a token with that position: an end's and a start's are given, that of a cell is the one drawn."""
    cells, end, start = (jnp.array(x)[grain] for x in (layout.cells, layout.position_end, layout.position_start))
    content = jnp.where(position < cells, drawn, jnp.where(position == end, layout.content_end, layout.content_pad))
    return jnp.where(position >= start, layout.content_start + starts, content)


def led_by(layout: SequenceLayout, tokens: Tokens, starts: Int[Array, "b"]) -> Tokens:
    """The tokens [b], with start tokens that name other ids of the condition."""
    first = jnp.array(layout.position_start)[tokens.grain]
    return dataclasses.replace(
        tokens,
        content=jnp.where(tokens.content >= layout.content_start, layout.content_start + starts, tokens.content),
        position=jnp.where(tokens.position >= first, first + starts, tokens.position),
    )
