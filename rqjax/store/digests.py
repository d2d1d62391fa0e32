"""Digests of a checkpoint's arrays: one number for each, whatever mesh holds it, by which damage on the disk is found.

The files of orbax have no checksum of their data: a flipped bit there would be read as another weight. A digest is a
sum over an array's elements, so that processes add up what each of them holds, before a save and after a restore.
"""

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from rqjax.errors import some_of
from rqjax.store.remote import Path

ITEM = "digests"
"""The folder beside the items of a checkpoint, with a file of each process that wrote it."""
BLOCK = 2**16
"""Elements that are multiplied at once: their products stay in the processor's cache."""
WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
Piece = tuple[str, tuple[slice, ...], np.ndarray]
"""A part of an array: the array's name, where the part lies in it, and its elements."""


def digest(piece: np.ndarray, where: tuple[slice, ...] = ()) -> int:
    """The digest of an array, or what a piece of it that lies at `where` adds to it: an integer below 2**64.

    It is the sum of all elements, read as integers, each times an odd number that is the product of one for each of its
    coordinates. Any change of a single element changes it; two of several arrays of chance agree once in 2**32 at
    most. It guards against damage, not against malice.
    """
    words = np.atleast_1d(np.ascontiguousarray(piece)).view(WORDS[piece.dtype.itemsize])
    starts = [part.start or 0 for part in where] or [0] * words.ndim
    weights = [_weights(axis, *span) for axis, span in enumerate(zip(starts, words.shape, strict=True))]
    rows = words.reshape(-1, words.shape[-1]) if words.size else words.reshape(0, 1)
    step = max(BLOCK // rows.shape[1], 1)
    sums = [rows[i : i + step].astype(np.uint64) @ weights[-1] for i in range(0, len(rows), step)]
    total = np.concatenate(sums).reshape(words.shape[:-1]) if sums else np.zeros((), np.uint64)
    while total.ndim:
        total = total @ weights[total.ndim - 1]
    return int(total)


def _weights(axis: int, start: int, length: int) -> np.ndarray:
    """Odd numbers by chance (splitmix64) for the coordinates from `start` on of an axis."""
    x = np.arange(start, start + length, dtype=np.uint64) + np.uint64((axis + 1) * 0x9E3779B97F4A7C15 % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) | np.uint64(1)


def pieces(arrays: Mapping[str, Any]) -> list[Piece]:
    """The pieces that this process answers for, on this machine: of each piece one copy in the whole run."""
    found: list[Piece] = []
    for name, array in arrays.items():
        if isinstance(array, jax.Array):
            own = [shard for shard in array.addressable_shards if shard.replica_id == 0]
            found += [(name, shard.index, np.asarray(shard.data)) for shard in own]
        elif jax.process_index() == 0:
            found.append((name, (), np.asarray(array)))
    return found


def sums(held: Iterable[Piece]) -> dict[str, int]:
    """By array, what pieces add to its digest."""
    found: dict[str, int] = {}
    for name, where, piece in held:
        found[name] = (found.get(name, 0) + digest(piece, where)) % 2**64
    return found


def text_digest(value: object) -> int:
    """The digest of a value of JSON."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


class DigestHandler(ocp.AsyncCheckpointHandler):
    """Writes, behind the step, what each process holds of every digest, and the digest of the configuration."""

    async def async_save(self, directory: epath.Path, args: "DigestSave") -> list[Any]:
        """Starts the save; the arrays may change or go once this has returned."""
        held = pieces(args.arrays)
        write = self._write(directory, held, args.config)
        return [ocp.future.CommitFutureAwaitingContractedSignals(write, name="digests")]

    async def _write(self, directory: epath.Path, held: list[Piece], config: Mapping[str, object]) -> None:
        content = {"processes": jax.process_count(), "config": text_digest(config), "arrays": sums(held)}
        (directory / f"{jax.process_index()}.json").write_text(json.dumps(content))

    def save(self, directory: epath.Path, args: "DigestSave") -> None:
        """Not used: checkpoints are saved asynchronously."""
        raise NotImplementedError

    def restore(self, directory: epath.Path, args: object = None) -> object:
        """Not used: `Digests.read` needs no manager."""
        raise NotImplementedError


@ocp.args.register_with_handler(DigestHandler, for_save=True)
@dataclass
class DigestSave(ocp.args.CheckpointArgs):
    """The arrays of a checkpoint by name, and its configuration as JSON."""

    arrays: Mapping[str, Any]
    config: Mapping[str, object]


@dataclass(frozen=True)
class Digests:
    """The digests of one checkpoint."""

    config: int
    arrays: Mapping[str, int]

    @classmethod
    def read(cls, checkpoint: Path) -> "Digests | None":
        """Those beside a checkpoint's items; None if an earlier version wrote it.

        Raises whatever json and the disk do, or an error of type or name, if they are damaged.
        """
        folder = checkpoint / ITEM
        if not folder.is_dir():
            return None
        first = json.loads((folder / "0.json").read_text())
        found: dict[str, int] = {}
        for process in range(first["processes"]):
            part = first if process == 0 else json.loads((folder / f"{process}.json").read_text())
            for name, number in part["arrays"].items():
                found[name] = (found.get(name, 0) + number) % 2**64
        return cls(first["config"], found)

    def check(self, arrays: Mapping[str, Any]) -> None:
        """Raises ValueError naming the arrays, restored by all processes together, that are not those saved."""
        own = sums(pieces(arrays))
        found = np.array([own.get(name, 0) for name in arrays], np.uint64)
        if jax.process_count() > 1:
            halves = multihost_utils.process_allgather(found.view(np.uint32))
            found = np.ascontiguousarray(halves).view(np.uint64).sum(axis=0, dtype=np.uint64)
        wrong = [name for name, number in zip(arrays, found, strict=True) if self.arrays.get(name) != int(number)]
        if wrong:
            raise ValueError(f"the array {some_of(wrong, between=', ')} is not as it was saved")
