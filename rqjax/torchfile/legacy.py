"""The format of torch.save before PyTorch 1.6: magic number, version, pickle, keys of the storages, their raw data."""

import mmap

import numpy as np

from rqjax.errors import DAMAGED, InputError
from rqjax.store.dtypes import STORAGES
from rqjax.torchfile.pickles import Window, read_pickle
from rqjax.torchfile.storages import Storages
from rqjax.torchfile.tensors import CONSTRUCTORS

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
VERSION = 1001


def read_legacy(mapped: mmap.mmap) -> object:
    """The object that the file holds, its tensors as views on the file; the data is little-endian on every machine.

    The storages lie behind the pickle that uses them, so it is read twice: first with every name foreign and storages
    that take no memory, to learn which there are. Raises InputError for a file of another format or a damaged one.
    """
    window = Window(mapped, 0, len(mapped))
    magic, version, _ = (read_pickle(window) for _ in range(3))
    if magic != MAGIC_NUMBER or version != VERSION:
        raise InputError("this is a pickle but not a checkpoint, expected a file that torch.save wrote")
    start = window.position
    used = Storages(lambda storage: np.broadcast_to(np.zeros((), STORAGES[storage.kind]), storage.length))
    read_pickle(window, storage=used)
    keys = read_pickle(window)
    texts = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not isinstance(keys, list) or not texts or sorted(keys) != sorted(used.loaded):
        raise InputError(f"its list of storages is not that of its pickle: {DAMAGED}")
    contents, position, raw = {}, window.position, np.frombuffer(mapped, np.uint8)
    for storage, _ in (used.loaded[key] for key in keys):
        if int.from_bytes(mapped[position : position + 8], "little") != storage.length:
            raise InputError(f"storage {storage.key!r} has another length than its pickle says: {DAMAGED}")
        contents[storage.key] = storage.elements(raw[position + 8 :])
        position += 8 + contents[storage.key].nbytes
    window = Window(mapped, start, len(mapped))
    return read_pickle(window, CONSTRUCTORS, Storages(lambda storage: contents[storage.key]))
