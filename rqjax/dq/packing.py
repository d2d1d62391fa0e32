"""Sequences of different lengths laid side by side into rows of one length, so that little of a row is padding."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packing:
    """Where each sequence lies, and what lies in each slot of a row."""

    row: Any  # Int[n], the row of a sequence; the number of rows where it found no place
    offset: Any  # Int[n], the slot of its first token
    sequence: Any  # Int[rows row_length], which sequence a slot belongs to; n where it is empty
    index: Any  # Int[rows row_length], which token of that sequence it holds; 0 where empty
    placed: Any  # Bool[n]
    used: Any  # Int[], how many rows hold anything: always the first ones
    waste: Any  # Float[], the share of the slots of used rows that is empty

    @property
    def filled(self) -> Bool[Array, "rows row_length"]:
        """Which slots hold a token."""
        return self.sequence < self.row.shape[0]


def sufficient_rows(sequences: int, longest: int, row_length: int) -> int:
    """A number of rows in which `pack` places every sequence of at most `longest` tokens, whatever their lengths.

    First fit opens a row only if every row before it has less than `longest` slots left, so each of those holds at
    least row_length // longest sequences. Raises ValueError if one sequence does not fit in a row.
    """
    if not 0 < longest <= row_length:
        raise ValueError(f"a sequence of {longest} tokens does not fit in a row of {row_length}: use longer rows")
    return -(-sequences // (row_length // longest))


def pack(lengths: Int[Array, "n"], rows: int, row_length: int) -> Packing:
    """First-fit-decreasing: each sequence, longest first, goes into the first row that still has room for it.

    Shapes depend on `rows` and `row_length` alone. With `sufficient_rows` every sequence is placed; with fewer rows,
    those for which none had room have placed = False and row = `rows`: train on them in another step, or report their
    number.
    """

    def place(room: jax.Array, length: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        fits = room >= length
        row = jnp.where(fits.any(), jnp.argmax(fits), rows).astype(jnp.int32)
        offset = row_length - room.at[row].get(mode="fill", fill_value=row_length)
        return room.at[row].add(-length, mode="drop"), (row, offset)

    lengths = lengths.astype(jnp.int32)
    order = jnp.argsort(-lengths, stable=True)
    room, (row, offset) = jax.lax.scan(place, jnp.full(rows, row_length, jnp.int32), lengths[order])
    back = jnp.argsort(order)
    row, offset = row[back], offset[back]
    sequence, index = _slots(lengths, row, offset, rows, row_length)
    used = jnp.sum(room < row_length, dtype=jnp.int32)
    tokens = jnp.sum(row_length - room)
    waste = 1 - tokens / jnp.maximum(used * row_length, 1)
    placed = row < rows
    return Packing(row=row, offset=offset, sequence=sequence, index=index, placed=placed, used=used, waste=waste)


def _slots(
    lengths: jax.Array, row: jax.Array, offset: jax.Array, rows: int, row_length: int
) -> tuple[jax.Array, jax.Array]:
    """The sequence and the token index of every slot. No two tokens share a slot, so the scatter has one outcome."""
    n = lengths.shape[0]
    token = jnp.arange(row_length, dtype=jnp.int32)[None]
    here = (token < lengths[:, None]) & (row < rows)[:, None]
    slot = jnp.where(here, (row * row_length + offset)[:, None] + token, rows * row_length)
    owner = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32)[:, None], slot.shape)
    sequence = jnp.full(rows * row_length, n, jnp.int32).at[slot].set(owner, mode="drop")
    index = jnp.zeros(rows * row_length, jnp.int32).at[slot].set(jnp.broadcast_to(token, slot.shape), mode="drop")
    return sequence.reshape(rows, row_length), index.reshape(rows, row_length)


def gather(packing: Packing, tokens: Int[Array, "n length"], fill: int) -> Int[Array, "rows row_length"]:
    """The tokens of all sequences in their slots, `fill` in the empty ones."""
    taken = tokens[jnp.minimum(packing.sequence, tokens.shape[0] - 1), packing.index]
    return jnp.where(packing.filled, taken, fill)


def scatter(
    packing: Packing, values: Float[Array, "rows row_length *dim"], length: int
) -> Float[Array, "n length *dim"]:
    """What was computed in the slots, per sequence and token again: the inverse of gather; 0 beyond the ends."""
    n = packing.row.shape[0]
    out = jnp.zeros((n, length, *values.shape[2:]), values.dtype)
    return out.at[packing.sequence, packing.index].set(values, mode="drop")
