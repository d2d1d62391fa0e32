"""Storages: the raw data that the persistent ids of a pickle refer to, as 1-D arrays that look at the mapped file."""

import dataclasses
import mmap
import sys
from typing import Any

import numpy as np

from rqjax.errors import InputError
from rqjax.store.dtypes import STORAGES
from rqjax.torchfile.archive import Archive
from rqjax.torchfile.foreign import Foreign


@dataclasses.dataclass(frozen=True)
class StorageId:
    """What a persistent id says: the storage's key, its type, and its length in elements.

    `view` is (key, offset, length) of a part of it, which files before PyTorch 0.4 have.
    """

    key: str
    dtype: Any
    length: int
    typed: bool
    view: tuple[int, int] | None = None

    @property
    def nbytes(self) -> int:
        return self.length * self.dtype.itemsize


def storage_id(persistent_id: Any) -> StorageId:
    """The meaning of ("storage", class, key, device, length[, view]); InputError for any other id."""
    fields = persistent_id if isinstance(persistent_id, tuple) and len(persistent_id) in (5, 6) else (None,) * 5
    word, kind, key, _, length, *view = fields
    if word not in ("storage", b"storage") or not isinstance(kind, Foreign) or not isinstance(key, str):
        raise InputError("its pickle is damaged (a persistent id is not that of a storage)")
    if type(length) is not int or not 0 <= length < 2**60:
        raise InputError("its pickle is damaged (a storage's length is not a count)")
    typed = kind.name != "UntypedStorage"
    if typed and kind.name not in STORAGES:
        raise InputError(
            f"it holds a {kind.name[:60]}, expected dense tensors of a standard type: convert it with PyTorch"
        )
    part = view[0] if view else None
    if part is not None:
        if not isinstance(part, tuple) or len(part) != 3 or not all(type(n) is int and n >= 0 for n in part[1:]):
            raise InputError("its pickle is damaged (a storage's view is not a key, an offset and a length)")
        part = (part[1], part[2])
    return StorageId(key, STORAGES[kind.name] if typed else np.dtype(np.uint8), length, typed, part)


def elements(content: np.ndarray, storage: StorageId) -> np.ndarray:
    """The bytes `content` as elements of the storage's type; InputError if there are fewer than it claims."""
    if storage.nbytes > content.size:
        raise InputError(
            f"storage {storage.key[:40]!r} claims {storage.nbytes} bytes and has {content.size}: the file is damaged"
        )
    values = content[: storage.nbytes].view(storage.dtype)
    if storage.view is None:
        return values
    offset, length = storage.view
    if offset + length > values.size:
        raise InputError(f"a view reaches past storage {storage.key[:40]!r}: the file is damaged")
    return values[offset : offset + length]


class ArchiveStorages:
    """Maps the persistent ids of a zip file's pickle to arrays; `verify` compares each record with its checksum."""

    def __init__(self, archive: Archive, mapped: mmap.mmap, verify: bool):
        self.archive, self.verify = archive, verify
        self.content = np.frombuffer(mapped, np.uint8)
        order = archive.read("byteorder", 64) if "byteorder" in archive.entries else b"little"
        if order not in (b"little", b"big"):
            raise InputError(f"its byte order is {order[:20]!r}, expected little or big: the file is damaged")
        self.swap = order.decode() != sys.byteorder
        self.made: dict[StorageId, np.ndarray] = {}
        self.checked: set[str] = set()

    def __call__(self, persistent_id: Any) -> np.ndarray:
        storage = storage_id(persistent_id)
        if storage not in self.made:
            start, stop = self.archive.span(f"data/{storage.key}")
            if self.verify and storage.key not in self.checked:
                self.archive.check(f"data/{storage.key}")
                self.checked.add(storage.key)
            values = elements(self.content[start:stop], storage)
            self.made[storage] = self._swapped(values, storage) if self.swap else values
        return self.made[storage]

    def _swapped(self, values: np.ndarray, storage: StorageId) -> np.ndarray:
        """A copy in this machine's byte order, which a foreign order needs."""
        if not storage.typed:
            raise InputError("it holds untyped storages in the other byte order: save it with PyTorch on this machine")
        width = values.itemsize // (2 if values.dtype.kind == "c" else 1)
        return values.view(f"u{width}").byteswap().view(values.dtype)
