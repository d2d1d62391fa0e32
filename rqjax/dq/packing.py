"""Sequences of different lengths laid side by side into rows of one length, so that little of a row is padding."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Int

from rqjax.dq.sequence import Rows, SequenceLayout, Tokens
from rqjax.errors import InputError
from rqjax.mesh import constrain, shards
from rqjax.quantize.pytree import pytree


@pytree
@dataclasses.dataclass(frozen=True)
class Packing:
    """The sequence and the token in each slot of the rows, and which sequences found a place."""

    sequence: Int[Array, "rows row_length"]  # -1 where a slot is empty
    index: Int[Array, "rows row_length"]  # of the token in that sequence; 0 where a slot is empty
    placed: Bool[Array, "n"]


def sufficient_rows(sequences: int, longest: int, row_length: int) -> int:
    """A number of rows in which `pack` places every sequence of at most `longest` tokens, whatever their lengths.

    First fit opens a row only if every row before it has less than `longest` slots left, so each of those holds at
    least row_length // longest sequences. Raises InputError if one sequence does not fit in a row.
    """
    if not 0 < longest <= row_length:
        raise InputError(f"a sequence of {longest} tokens does not fit in a row of {row_length}: use longer rows")
    return -(-sequences // (row_length // longest))


def pack(lengths: Int[Array, "n"], rows: int, row_length: int) -> Packing:
    """First-fit-decreasing: each sequence, longest first, goes into the first row that still has room for it.

    Shapes depend on `rows` and `row_length` alone. With `sufficient_rows` every sequence is placed; with fewer rows
    `placed` is False for those that found no room.
    """

    def place(room: Array, length: Array) -> tuple[Array, tuple[Array, Array]]:
        fits = room >= length
        row = jnp.where(fits.any(), jnp.argmax(fits), rows).astype(jnp.int32)
        offset = row_length - room.at[row].get(mode="fill", fill_value=row_length)
        return room.at[row].add(-length, mode="drop"), (row, offset)

    lengths = lengths.astype(jnp.int32)
    order = jnp.argsort(-lengths, stable=True)
    _, (row, offset) = jax.lax.scan(place, jnp.full(rows, row_length, jnp.int32), lengths[order])
    back = jnp.argsort(order)
    sequence, index = _slots(lengths, row[back], offset[back], rows, row_length)
    return Packing(sequence=sequence, index=index, placed=row[back] < rows)


def _slots(
    lengths: Int[Array, "n"], row: Int[Array, "n"], offset: Int[Array, "n"], rows: int, row_length: int
) -> tuple[Int[Array, "rows row_length"], Int[Array, "rows row_length"]]:
    """The sequence and the token index of every slot. No two tokens share a slot, so the scatter has one outcome."""
    token = jnp.arange(row_length, dtype=jnp.int32)[None]
    here = (token < lengths[:, None]) & (row < rows)[:, None]
    slot = jnp.where(here, (row * row_length + offset)[:, None] + token, rows * row_length)
    owner = jnp.broadcast_to(jnp.arange(lengths.shape[0], dtype=jnp.int32)[:, None], slot.shape)
    sequence = jnp.full(rows * row_length, -1, jnp.int32).at[slot].set(owner, mode="drop")
    index = jnp.zeros(rows * row_length, jnp.int32).at[slot].set(jnp.broadcast_to(token, slot.shape), mode="drop")
    return sequence.reshape(rows, row_length), index.reshape(rows, row_length)


def packed(
    sequences: Rows, layout: SequenceLayout, *, groups: int, row_length: int, rows_per_image: float
) -> tuple[Rows, Int[Array, ""]]:
    """Rows [_ row_length] of several images each, made of rows of one image, and how many images found no place.

    Each of `groups` equal parts of the batch fills rows of its own; 0 makes one for each shard of the data. With the
    batch split over a mesh, groups in a multiple of its data axis keep every image on its device. Raises InputError if
    `groups` does not divide the batch, or is no such multiple.
    """
    batch, longest = sequences.image.shape
    parts = shards(jax.sharding.get_abstract_mesh())
    groups = groups or parts
    if batch % groups:
        raise InputError(f"pack_groups={groups} does not divide a batch of {batch}: choose a divisor")
    if groups % parts:
        raise InputError(f"pack_groups={groups} for {parts} data shards: choose a multiple of their number")
    images = batch // groups
    # as many as asked for, but no more than can be needed
    rows = min(math.ceil(images * rows_per_image), sufficient_rows(images, longest, row_length))

    def fill(sequences: Rows) -> tuple[Rows, Array]:
        packing = pack(jnp.sum(sequences.filled, axis=1, dtype=jnp.int32), rows, row_length)
        return gather(packing, sequences, layout), jnp.sum(~packing.placed, dtype=jnp.int32)

    split = jax.tree.map(lambda x: rearrange(x, "(g n) ... -> g n ...", g=groups), sequences)
    filled, unplaced = jax.vmap(fill)(jax.tree.map(lambda x: constrain(x, "data"), split))
    whole = jax.tree.map(lambda x: rearrange(x, "g r ... -> (g r) ..."), filled)
    return jax.tree.map(lambda x: constrain(x, "data", None), whole), jnp.sum(unplaced)


def gather(packing: Packing, sequences: Rows, layout: SequenceLayout) -> Rows:
    """The tokens of all sequences in their slots, and pads in the empty ones."""

    def take(ids: Array, pad: int) -> Array:
        return jnp.where(packing.sequence < 0, pad, ids[packing.sequence, packing.index])

    tokens = Tokens(
        content=take(sequences.tokens.content, layout.content_pad),
        position=take(sequences.tokens.position, layout.position_pad[-1]),
        grain=take(sequences.tokens.grain, layout.grains - 1),
        index=packing.index,
    )
    if sequences.texts is None:
        return Rows(tokens=tokens, image=packing.sequence)
    image, members = numbered(packing, packing.sequence.shape[1] // layout.shortest)
    texts = jnp.where(members[..., None] < 0, 0, sequences.texts[members, 0])
    return Rows(tokens=tokens, image=image, texts=texts)


def numbered(packing: Packing, most: int) -> tuple[Int[Array, "rows row_length"], Int[Array, "rows {most}"]]:
    """The place of each slot's sequence among those of its row, and the sequences that a row has, `most` or fewer; -1
    where there is none.
    """
    filled = packing.sequence >= 0
    begins = filled & (packing.index == 0)
    place = jnp.cumsum(begins, axis=1, dtype=jnp.int32) - 1
    row = jnp.arange(len(place))[:, None]
    members = jnp.full((len(place), most), -1, jnp.int32)
    members = members.at[row, jnp.where(begins, place, most)].set(packing.sequence, mode="drop")
    return jnp.where(filled, place, -1), members
