"""The format of torch.save before PyTorch 1.6: magic number, version, pickle, keys of the storages, their raw data."""

import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np

from rqjax.errors import DAMAGED, InputError
from rqjax.torchfile.foreign import Foreign
from rqjax.torchfile.numpy_pickles import set_state
from rqjax.torchfile.pickle_stream import Window
from rqjax.torchfile.storages import StorageId, elements, storage_id
from rqjax.torchfile.unpickle import run_pickle

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
VERSION = 1001


def read_legacy(mapped: mmap.mmap, known: Mapping[tuple[str, str], Any]) -> Any:
    """The object that the file holds, its tensors as views on the file; the data is little-endian on every machine.

    The storages lie behind the pickle that uses them, so it is read twice: first with every name foreign, to learn
    which storages there are. Raises InputError for a file of another format or a damaged one.
    """
    window = Window(mapped, 0, len(mapped))
    magic, version, _ = (run_pickle(window, {}, _no_storage) for _ in range(3))
    if magic != MAGIC_NUMBER or version != VERSION:
        raise InputError("this is a pickle but not a checkpoint, expected a file that torch.save wrote")
    start = window.position
    used: dict[str, StorageId] = {}

    def note(persistent_id: Any) -> Any:
        if _is_module(persistent_id):
            return persistent_id[1]
        storage = storage_id(persistent_id)
        used.setdefault(storage.key, storage)
        return None

    run_pickle(window, {}, note)
    keys = run_pickle(window, {}, _no_storage)
    contents = _locate(mapped, window.position, keys, used)

    def load(persistent_id: Any) -> Any:
        if _is_module(persistent_id):
            return persistent_id[1]
        storage = storage_id(persistent_id)
        return elements(contents[storage.key], storage)

    return run_pickle(Window(mapped, start, len(mapped)), known, load, set_state)


def _no_storage(_: Any) -> Any:
    raise InputError(f"a storage is referred to outside the checkpoint's pickle: {DAMAGED}")


def _is_module(persistent_id: Any) -> bool:
    """Modules pickled whole name their class as ("module", class, file, source)."""
    named = isinstance(persistent_id, tuple) and len(persistent_id) == 4 and persistent_id[0] in ("module", b"module")
    return named and isinstance(persistent_id[1], Foreign)


def _locate(mapped: mmap.mmap, position: int, keys: Any, used: Mapping[str, StorageId]) -> dict[str, np.ndarray]:
    """The bytes of each storage: from `position` on they follow in the order of `keys`, each behind its length."""
    content = np.frombuffer(mapped, np.uint8)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(used):
        raise InputError(f"its list of storages is not that of its pickle: {DAMAGED}")
    if len(set(keys)) != len(keys):
        raise InputError(f"its list of storages names one twice: {DAMAGED}")
    contents = {}
    for key in keys:
        length = int.from_bytes(mapped[position : position + 8], "little")
        start = position + 8
        position = start + used[key].nbytes
        if length != used[key].length or position > len(mapped):
            raise InputError(f"storage {key[:40]!r} ends past the file or has another length: {DAMAGED}")
        contents[key] = content[start:position]
    return contents
