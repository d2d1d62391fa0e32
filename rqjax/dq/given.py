"""Codes of an image that are known before it is drawn: they are kept, and have -1 where others are to be drawn."""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from jaxtyping import Array, Bool, Int

from rqjax.dq.positions import owners
from rqjax.dq.sequence import SequenceLayout
from rqjax.errors import InputError
from rqjax.nets.condition import check_range
from rqjax.quantize.dynamic import Codes


def check_prefix(given: Codes, images: int, layout: SequenceLayout) -> None:
    """Raises InputError unless codes are the first of each image: of its first regions in raster order, and in these of
    all grains or of the coarser ones. Values inside jit are not looked at.
    """
    shapes = ((images, *(layout.grids[-1],) * 2), (images, *(layout.grids[0],) * 2))
    found = (given.codes.shape, given.grain.shape)
    if found != shapes:
        raise InputError(
            f"given codes and grains have shapes {found}: expected {shapes}, with -1 for those to be drawn"
        )
    if isinstance(given.codes, jax.core.Tracer):
        return
    codes, grain = np.asarray(given.codes), np.asarray(given.grain)
    check_range("given code", codes[codes != -1], layout.codebook_size)
    check_range("given grain", grain[grain != -1], layout.grains)
    known = rearrange(grain >= 0, "b h w -> b (h w)")
    cells = np.asarray(_on_cells(layout, grain))
    codes = rearrange(codes, "b h w -> b (h w)")
    if np.any(np.diff(known.astype(int)) > 0) or np.any((codes >= 0) & (cells < 0)) or not _coarse_first(codes, cells):
        raise InputError(
            "given codes are no prefix: expected those of the first regions in raster order, of all grains or of the"
            " coarser ones, and -1 behind them"
        )


def _coarse_first(codes: np.ndarray, grain: np.ndarray) -> bool:
    """Whether in each image all cells of a grain have codes, if one of that grain or of a finer one has."""
    finest = np.max(np.where(codes >= 0, grain, -1), axis=-1, keepdims=True)
    return bool(np.all((codes >= 0) == ((grain >= 0) & (grain <= finest))))


def _on_cells(layout: SequenceLayout, grain: Int[Array | np.ndarray, "b h w"]) -> Int[Array | np.ndarray, "b cells"]:
    side = layout.grids[-1] // layout.grids[0]
    return repeat(grain, "b h w -> b (h r w s)", r=side, s=side)


def kept_to(
    layout: SequenceLayout,
    allowed: Bool[Array, "b positions"],
    free: Bool[Array, "b cells"],
    grain: Int[Array, "b"],
    given: Int[Array, "b h w"],
) -> Bool[Array, "b positions"]:
    """The allowed positions that agree with the `given` grains of regions, which are -1 where nothing is given.

    The cells of given regions come first, in the order of the layout; others lie in regions of which nothing is given.
    """
    known = _on_cells(layout, given)
    masks = []
    for g, corner in enumerate(_corners(layout)):
        order, waiting = layout.visited(g), (free & (known == g))[:, corner]
        first = jnp.array(order)[jnp.argmax(waiting[:, order], -1)]
        others = allowed.at[:, : layout.cells[g]].set(allowed[:, : layout.cells[g]] & (known[:, corner] < 0))
        alone = jnp.arange(allowed.shape[1]) == first[:, None]
        masks.append(jnp.where(jnp.any(waiting, -1, keepdims=True), alone, others))
    return jnp.take_along_axis(jnp.stack(masks), grain[None, :, None], axis=0)[0]


def known_or(
    layout: SequenceLayout,
    drawn: Int[Array, "b"],
    position: Int[Array, "b"],
    grain: Int[Array, "b"],
    given: Int[Array, "b H W"],
) -> Int[Array, "b"]:
    """The given code of a cell, or the one drawn for it where that is -1; starts and ends have neither."""
    corners = [np.pad(corner, (0, layout.cells[-1] - len(corner))) for corner in _corners(layout)]
    cell = jnp.array(np.stack(corners))[grain, jnp.minimum(position, layout.cells[-1] - 1)]
    known = jnp.take_along_axis(rearrange(given, "b h w -> b (h w)"), cell[:, None], axis=1)[:, 0]
    return jnp.where(known < 0, drawn, known)


def _corners(layout: SequenceLayout) -> list[np.ndarray]:
    """For each grain, the cell of the finest grid at the top left of each of its cells."""
    return [np.unique(owner, return_index=True)[1] for owner in owners(layout)]


def keep_first(codes: Codes, rows: int, grains: int) -> Codes:
    """The first `rows` rows of regions, and in these the codes of the first `grains` grains; -1 for all others."""
    side = codes.codes.shape[1] // codes.grain.shape[1]
    grain = jnp.where(jnp.arange(codes.grain.shape[1])[:, None] < rows, codes.grain, -1)
    cells = repeat(grain, "b h w -> b (h r) (w s)", r=side, s=side)
    return Codes(codes=jnp.where((cells >= 0) & (cells < grains), codes.codes, -1), grain=grain)
