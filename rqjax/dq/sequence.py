"""Maps of codes with grains <-> one stream of (content, position) pairs per grain, in static shapes."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from jaxtyping import Array, Int

ORDERS = ("row-first", "region-first")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceLayout:
    """What the integers of the streams mean; grains are listed from coarse to fine.

    A content id is a code below `codebook_size`, or pad, eos, or one of the start tokens `content_sos + label`. A
    position id of grain g is a cell of its `grids[g]` x `grids[g]` grid in raster order, or pad, eos, `position_sos[g]
    + label`. With `classes` = 0 there is one start token and label 0.
    """

    grids: tuple[int, ...]
    codebook_size: int
    classes: int
    order: str
    content_pad: int
    content_eos: int
    content_sos: int
    position_pad: tuple[int, ...]
    position_eos: tuple[int, ...]
    position_sos: tuple[int, ...]

    def check(self) -> None:
        """Raises ValueError if the grids do not double, or special ids collide with others or with what they mark."""
        if len(self.grids) not in (2, 3) or any(2 * a != b for a, b in itertools.pairwise(self.grids)):
            raise ValueError(f"grids {self.grids} do not double from grain to grain: give two or three, as in (16, 32)")
        if self.grids[0] < 1 or self.codebook_size < 1 or self.classes < 0:
            raise ValueError(
                f"grids {self.grids}, codebook {self.codebook_size}, classes {self.classes}: must be positive"
            )
        if self.order not in ORDERS:
            raise ValueError(f"order {self.order!r} of positions is unknown: choose one of {ORDERS}")
        if any(len(ids) != len(self.grids) for ids in (self.position_pad, self.position_eos, self.position_sos)):
            raise ValueError(f"special position ids do not match {len(self.grids)} grains: give one of each per grain")
        _check_ids("content", self.codebook_size, self.content_pad, self.content_eos, self.content_sos)
        for g, grid in enumerate(self.grids):
            ids = self.position_pad[g], self.position_eos[g], self.position_sos[g]
            _check_ids(f"position (grain {g})", grid * grid, *ids)

    @property
    def content_size(self) -> int:
        """How many content ids there are."""
        return self.content_sos + max(self.classes, 1)

    @property
    def position_sizes(self) -> tuple[int, ...]:
        """How many position ids each grain has."""
        return tuple(sos + max(self.classes, 1) for sos in self.position_sos)

    @property
    def capacity(self) -> int:
        """The longest joined sequence: every cell fine, and a start and an end per grain."""
        return self.grids[-1] ** 2 + 2 * len(self.grids)

    def cells(self, grain: int) -> np.ndarray:
        """The raster ids of a grain's cells, in the order in which its stream visits them."""
        ids = np.arange(self.grids[grain] ** 2, dtype=np.int32).reshape(self.grids[grain], -1)
        scale = 2**grain if self.order == "region-first" else 1
        return rearrange(ids, "(h r) (w s) -> (h w r s)", r=scale, s=scale) if scale > 1 else ids.reshape(-1)


def _check_ids(what: str, size: int, pad: int, eos: int, sos: int) -> None:
    if len({pad, eos, sos}) < 3 or min(pad, eos) < size or sos <= max(pad, eos):
        raise ValueError(
            f"special {what} ids disagree: found pad {pad}, eos {eos}, sos {sos}, "
            f"expected pad and eos at or above {size} and sos above both: give each its own id"
        )


def sequence_layout(grids: tuple[int, ...], codebook_size: int, classes: int, order: str) -> SequenceLayout:
    """The layout whose special ids follow the ordinary ones: pad, eos, then a start token per class (or one in all)."""
    cells = tuple(grid * grid for grid in grids)
    layout = SequenceLayout(
        grids=grids,
        codebook_size=codebook_size,
        classes=classes,
        order=order,
        content_pad=codebook_size,
        content_eos=codebook_size + 1,
        content_sos=codebook_size + 2,
        position_pad=cells,
        position_eos=tuple(n + 1 for n in cells),
        position_sos=tuple(n + 2 for n in cells),
    )
    layout.check()
    return layout


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stream:
    """One grain of a batch of images: pairs, eos at slot `length` - 1, then pads; capacity is its cells and one."""

    content: Any  # Int[b capacity]
    position: Any  # Int[b capacity]
    length: Any  # Int[b], the eos included


def to_streams(codes: Int[Array, "b H W"], grain: Int[Array, "b h w"], layout: SequenceLayout) -> tuple[Stream, ...]:
    """One stream per grain, coarse to fine, of maps in which a region repeats each of its codes over a block.

    `codes` is on the finest grid, `grain` on the coarsest (0 = coarse). A block's code is that of its top left cell.
    Raises ValueError for maps of another size than the layout's grids.
    """
    if grain.shape[1:] != (layout.grids[0],) * 2 or codes.shape[1:] != (layout.grids[-1],) * 2:
        raise ValueError(
            f"codes {codes.shape} and grains {grain.shape} do not fit grids {layout.grids}: use the model's"
        )
    return tuple(_stream(codes, grain, g, layout) for g in range(len(layout.grids)))


def _stream(codes: jax.Array, grain: jax.Array, g: int, layout: SequenceLayout) -> Stream:
    cells, block = layout.cells(g), layout.grids[-1] // layout.grids[g]
    content = rearrange(codes[:, ::block, ::block], "b h w -> b (h w)")[:, cells]
    keep = repeat(grain == g, "b h w -> b (h r) (w s)", r=2**g, s=2**g)
    keep = rearrange(keep, "b h w -> b (h w)")[:, cells]
    front = jnp.argsort(~keep, axis=-1, stable=True)
    count = keep.sum(-1, keepdims=True, dtype=jnp.int32)
    slot = jnp.arange(cells.size + 1)

    def pack(values: jax.Array, eos: int, pad: int) -> jax.Array:
        values = jnp.pad(values, ((0, 0), (0, 1)))
        return jnp.where(slot < count, values, jnp.where(slot == count, eos, pad)).astype(jnp.int32)

    return Stream(
        content=pack(jnp.take_along_axis(content, front, -1), layout.content_eos, layout.content_pad),
        position=pack(jnp.asarray(cells)[front], layout.position_eos[g], layout.position_pad[g]),
        length=count[:, 0] + 1,
    )


def from_streams(
    streams: Sequence[Stream], layout: SequenceLayout
) -> tuple[Int[Array, "b H W"], Int[Array, "b h w"], Int[Array, "b H W"]]:
    """The maps that streams describe: codes on the finest grid, grains on the coarsest, how many grains cover a cell.

    Each stream is read up to its first position eos. Of pairs with one position the last counts, and finer grains
    overwrite coarser ones, so a region's grain is the finest that wrote in it. A cell that nothing covers keeps code 0:
    coverage is 1 everywhere exactly if the streams partition the image.
    """
    fine, batch = layout.grids[-1], streams[0].content.shape[0]
    codes = jnp.zeros((batch, fine, fine), jnp.int32)
    grain = jnp.zeros((batch, layout.grids[0], layout.grids[0]), jnp.int32)
    coverage = jnp.zeros_like(codes)
    for g, stream in enumerate(streams):
        content, written = _scatter(stream, layout.grids[g], layout.position_eos[g])
        block = fine // layout.grids[g]
        covers = repeat(written, "b h w -> b (h r) (w s)", r=block, s=block)
        codes = jnp.where(covers, repeat(content, "b h w -> b (h r) (w s)", r=block, s=block), codes)
        coverage = coverage + covers
        touched = rearrange(written, "b (h r) (w s) -> b h w (r s)", r=2**g, s=2**g).any(-1)
        grain = jnp.where(touched, g, grain)
    return codes, grain, coverage


def _scatter(stream: Stream, grid: int, eos: int) -> tuple[jax.Array, jax.Array]:
    """A stream's content on its own grid, and where it wrote. A maximum over slots makes the last of equals win."""
    batch, slots = stream.position.shape
    before = jnp.cumsum(stream.position == eos, axis=-1) == 0
    target = jnp.where(before & (stream.position >= 0) & (stream.position < grid * grid), stream.position, grid * grid)
    last = jnp.full((batch, grid * grid), -1, jnp.int32)
    last = last.at[jnp.arange(batch)[:, None], target].max(jnp.arange(slots, dtype=jnp.int32)[None], mode="drop")
    content = jnp.take_along_axis(stream.content, jnp.maximum(last, 0), axis=-1)
    content = jnp.where(last >= 0, content, 0).astype(jnp.int32)
    square = lambda x: rearrange(x, "b (h w) -> b h w", h=grid)  # noqa: E731
    return square(content), square(last >= 0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tokens:
    """Whole sequences, one image a row: per grain a start token, the pairs and the end, without pads in between."""

    content: Any  # Int[b capacity]
    position: Any  # Int[b capacity]
    grain: Any  # Int[b capacity], whose position ids a token uses
    length: Any  # Int[b]


def join(streams: Sequence[Stream], labels: Int[Array, "b"], layout: SequenceLayout) -> Tokens:
    """The streams of each image one after the other, each led by the start token of its label (0 without classes).

    The position of a token in the row is its index in its own image's sequence, whatever the batch. Pads follow the
    last token.
    """
    slot = jnp.arange(layout.capacity)[None]
    content = jnp.full((labels.shape[0], layout.capacity), layout.content_pad, jnp.int32)
    position = jnp.full_like(content, layout.position_pad[-1])
    grain = jnp.full_like(content, len(streams) - 1)
    start = jnp.zeros_like(labels)[:, None]
    for g, stream in enumerate(streams):
        led = lambda x, sos: jnp.concatenate([(labels + sos)[:, None], x], axis=-1)  # noqa: E731
        here = (slot >= start) & (slot <= start + stream.length[:, None])
        index = jnp.clip(slot - start, 0, stream.content.shape[1])
        content = jnp.where(here, jnp.take_along_axis(led(stream.content, layout.content_sos), index, -1), content)
        position = jnp.where(
            here, jnp.take_along_axis(led(stream.position, layout.position_sos[g]), index, -1), position
        )
        grain = jnp.where(here, g, grain)
        start = start + stream.length[:, None] + 1
    return Tokens(content=content, position=position, grain=grain, length=start[:, 0])
