"""Storages: the raw data that the persistent ids of a pickle refer to, as 1-D arrays that look at the mapped file."""

import dataclasses
from collections.abc import Callable

import numpy as np

from rqjax.errors import DAMAGED, InputError, printable
from rqjax.store.dtypes import STORAGES
from rqjax.torchfile.foreign import Foreign


@dataclasses.dataclass(frozen=True)
class Storage:
    """A storage as a persistent id describes it; `length` counts elements of its type."""

    key: str
    kind: str
    length: int

    def elements(self, content: np.ndarray) -> np.ndarray:
        """The bytes `content` as elements of this type; InputError if there are fewer than the storage claims."""
        size = self.length * STORAGES[self.kind].itemsize
        if size > len(content):
            raise InputError(f"storage {self.key!r} claims {size} bytes and has {len(content)}: {DAMAGED}")
        return content[:size].view(STORAGES[self.kind])


class Storages:
    """Maps persistent ids to the arrays that `load` gives, which is asked once for each storage."""

    def __init__(self, load: Callable[[Storage], np.ndarray]):
        self.load = load
        self.loaded: dict[str, tuple[Storage, np.ndarray]] = {}

    def __call__(self, persistent_id: object) -> object:
        """The array of ("storage", class, key, device, length[, None]); of a ("module", class, ...) the class."""
        match persistent_id:
            case ("module", Foreign() as kind, _, _):
                return kind
            case ("storage", Foreign() as kind, str() as key, _, int() as length, *rest) if rest in ([], [None]):
                storage = Storage(key, kind.name, length)
            case _:
                raise TypeError("a persistent id is not that of a storage")
        if storage.kind not in STORAGES:
            raise InputError(
                f"it holds a {printable(storage.kind, 60)}, expected dense tensors: convert it with PyTorch"
            )
        if len(key) > 100 or not 0 <= length < 2**60:
            raise ValueError("the key of a storage is too long, or its length is no count")
        if key not in self.loaded:
            self.loaded[key] = storage, self.load(storage)
        known, values = self.loaded[key]
        if known != storage:
            raise InputError(f"storage {key!r} has two types or lengths: {DAMAGED}")
        return values
