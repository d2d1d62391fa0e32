"""An image's codes as one sequence of tokens (Huang et al. 2023, section 3.2).

A sequence runs through the grains from coarse to fine. Each grain has a start token, which says what the image is
conditioned on, then a token for each of its codes, then an end. A token is a position, a cell of its grain's own grid,
and a content, the code of that cell. The network predicts the next token's position first, and then, given that
position, its content.

For grids (2, 4) and an image whose top left region is fine, cells 1, 2 and 3 of the 2x2 grid have one code each, and
cells 0, 1, 4 and 5 of the 4x4 grid lie in the fine region. In the order "row-first" its sequence is

    index     0      1  2  3  4    5      6  7  8  9  10
    grain     0      0  0  0  0    1      1  1  1  1  1
    position  start  1  2  3  end  start  0  1  4  5  end
    content   start  b  c  d  end  start  e  f  g  h  end

An image of one grain throughout has the shortest sequence (all coarse) or the longest (all fine).
"""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from jaxtyping import Array, Bool, Int

from rqjax.checks import at_least, one_of
from rqjax.errors import InputError
from rqjax.quantize.dynamic import Codes
from rqjax.quantize.pytree import pytree

ORDERS = ("row-first", "region-first")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceLayout:
    """The meaning of the ids in a token; grains are listed from coarse to fine.

    A content is a code below `codebook_size`; behind the codes come the pad, the end and the start tokens. A position
    of grain g is a cell of its `grids[g]` x `grids[g]` grid in raster order; its pad, end and starts follow likewise.
    """

    grids: tuple[int, ...]
    codebook_size: int
    starts: int  # start tokens, one for each id of the condition
    order: str  # of a grain's cells: "row-first" as in the image, or "region-first"

    def check(self) -> None:
        """Raises InputError if the grids do not double, or other values make no sequence."""
        if len(self.grids) not in (2, 3) or any(2 * a != b for a, b in itertools.pairwise(self.grids)):
            raise InputError(f"grids {self.grids} do not double from grain to grain: give two or three, as in (16, 32)")
        at_least(1, grids=self.grids, codebook_size=self.codebook_size, starts=self.starts)
        one_of(ORDERS, order=self.order)

    @property
    def grains(self) -> int:
        return len(self.grids)

    @property
    def content_pad(self) -> int:
        return self.codebook_size

    @property
    def content_end(self) -> int:
        return self.codebook_size + 1

    @property
    def content_start(self) -> int:
        """The first of the start tokens."""
        return self.codebook_size + 2

    @property
    def content_size(self) -> int:
        """The number of content ids."""
        return self.content_start + self.starts

    @property
    def cells(self) -> tuple[int, ...]:
        """The number of cells of each grain's grid."""
        return tuple(grid * grid for grid in self.grids)

    @property
    def position_pad(self) -> tuple[int, ...]:
        return self.cells

    @property
    def position_end(self) -> tuple[int, ...]:
        return tuple(cells + 1 for cells in self.cells)

    @property
    def position_start(self) -> tuple[int, ...]:
        """The first of each grain's start tokens."""
        return tuple(cells + 2 for cells in self.cells)

    @property
    def position_sizes(self) -> tuple[int, ...]:
        """The number of position ids of each grain."""
        return tuple(start + self.starts for start in self.position_start)

    @property
    def capacity(self) -> int:
        """The length of the longest sequence: every cell fine, and a start and an end for each grain."""
        return self.cells[-1] + 2 * self.grains

    @property
    def shortest(self) -> int:
        """The length of the shortest sequence: every region coarse, and a start and an end for each grain."""
        return self.cells[0] + 2 * self.grains

    def visited(self, grain: int) -> np.ndarray:
        """The cells of a grain in the order in which a sequence visits them."""
        ids = np.arange(self.cells[grain], dtype=np.int32).reshape(self.grids[grain], -1)
        side = 2**grain if self.order == "region-first" else 1
        return rearrange(ids, "(h r) (w s) -> (h w r s)", r=side, s=side)


@pytree
@dataclasses.dataclass(frozen=True)
class Tokens:
    """Tokens on a grid of any shape."""

    content: Int[Array, "*grid"]
    position: Int[Array, "*grid"]
    grain: Int[Array, "*grid"]  # whose cells the position counts
    index: Int[Array, "*grid"]  # of the token in its image's sequence


@pytree
@dataclasses.dataclass(frozen=True)
class Rows:
    """Sequences in rows of one length, one image in a row or several."""

    tokens: Tokens  # [rows n]
    image: Int[Array, "rows n"]  # whose token it is, an id within the row; -1 in slots without one
    texts: Int[Array, "rows images length"] | None = None  # of image 0, 1, ... of the row, if they lead images

    @property
    def filled(self) -> Bool[Array, "rows n"]:
        """The slots with a token."""
        return self.image >= 0


def to_rows(
    codes: Codes, starts: Int[Array, "b"], layout: SequenceLayout, texts: Int[Array, "b length"] | None = None
) -> Rows:
    """The sequence of each image in a row of its own, led by its start token; pads follow the last token.

    `starts` are ids of the condition, or 0 throughout for images that `texts` lead. Raises InputError for codes on
    other grids than the layout's.
    """
    if codes.grain.shape[1:] != (layout.grids[0],) * 2 or codes.codes.shape[1:] != (layout.grids[-1],) * 2:
        raise InputError(
            f"codes {codes.codes.shape} and grains {codes.grain.shape} do not fit grids {layout.grids}: use the model's"
        )
    # all tokens that an image might have, in the order of the sequence: it has those of its grains
    listed = [_candidates(codes, starts, g, layout) for g in range(layout.grains)]
    content, position, grain, has = (jnp.concatenate(parts, axis=-1) for parts in zip(*listed, strict=True))
    front = jnp.argsort(~has, axis=-1, stable=True)[:, : layout.capacity]
    index = jnp.broadcast_to(jnp.arange(layout.capacity, dtype=jnp.int32), front.shape)
    filled = index < jnp.sum(has, axis=-1, keepdims=True)

    def take(ids: Array, pad: int) -> Array:
        return jnp.where(filled, jnp.take_along_axis(ids, front, axis=-1), pad)

    tokens = Tokens(
        content=take(content, layout.content_pad),
        position=take(position, layout.position_pad[-1]),
        grain=take(grain, layout.grains - 1),
        index=index,
    )
    return Rows(tokens=tokens, image=jnp.where(filled, 0, -1), texts=None if texts is None else texts[:, None])


def _candidates(
    codes: Codes, starts: Int[Array, "b"], g: int, layout: SequenceLayout
) -> tuple[Int[Array, "b n"], Int[Array, "b n"], Int[Array, "b n"], Bool[Array, "b n"]]:
    """Contents, positions and grain of a start, every cell of grain `g` and an end, and which of them an image has.

    The code of a cell is that of its top left cell on the finest grid.
    """
    order, block = layout.visited(g), layout.grids[-1] // layout.grids[g]
    content = rearrange(codes.codes[:, ::block, ::block], "b h w -> b (h w)")[:, order]
    own = repeat(codes.grain == g, "b h w -> b (h r w s)", r=2**g, s=2**g)[:, order]
    position = jnp.broadcast_to(jnp.asarray(order), content.shape)

    def framed(start: Array, cells: Array, end: int) -> Array:
        return jnp.concatenate([start[:, None], cells, jnp.full_like(start, end)[:, None]], axis=-1).astype(jnp.int32)

    content = framed(starts + layout.content_start, content, layout.content_end)
    position = framed(starts + layout.position_start[g], position, layout.position_end[g])
    has = jnp.pad(own, ((0, 0), (1, 1)), constant_values=True)
    return content, position, jnp.full_like(content, g), has
