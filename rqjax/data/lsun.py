"""LSUN's data bases, read by index: LMDB files in which each value is an encoded image.

Needs the package lmdb (rqjax[lmdb]). LMDB maps its file into memory, where a page that is not there ends the process;
so the length of the file is compared with what its head says before anything is read.
"""

import contextlib
import importlib
import importlib.util
import os
import pathlib
import stat
import threading
import weakref
from typing import Any

import numpy as np

from rqjax.data.sources import FILE_BYTES, HELD_OUT, NoSplitError, Record, held_out
from rqjax.errors import InputError
from rqjax.files import kind_of

FILE = "data.mdb"
_NAMES = {"train": ("train",), **HELD_OUT}
_open: "weakref.WeakValueDictionary[str, Any]" = weakref.WeakValueDictionary()
_opening = threading.Lock()


class Lsun:
    """The images of one data base, sorted by their keys; there are no classes.

    `path` is the folder of a data base (then the share `holdout` of the images, by the hash of their keys, is not in
    "train"), or a folder of those that LSUN's archives hold: `church_outdoor_train_lmdb`, `church_outdoor_val_lmdb`.
    Opening reads all keys. Raises InputError without the package, and for a data base that is damaged or cut short;
    NoSplitError if there is none for the split.
    """

    captioned = False
    classes: tuple[str, ...] = ("images",)

    def __init__(self, path: str, split: str, holdout: float):
        if not importlib.util.find_spec("lmdb"):
            raise InputError(
                "LSUN's data bases need the package lmdb, which is not installed: install rqjax[lmdb], or unpack the"
                " images into a folder"
            )
        top, self.left_out = pathlib.Path(path).expanduser(), dict[str, str]()
        self.bases, apart = _bases(top, split)
        self._environments: dict[int, Any] = {}
        found: list[tuple[int, bytes]] = []
        for k in range(len(self.bases)):
            keys = self._keys(k)
            if not apart and split != "all":
                keys = [key for key in keys if held_out(key.hex(), holdout) == (split != "train")]
            found += [(k, key) for key in keys]
        if not found:
            raise NoSplitError(f"{top} has no images for split {split!r}: choose another, or another data.holdout")
        # millions of keys: one text and where each ends take a third of the memory of single ones
        self._of = np.array([k for k, _ in found], np.uint8)
        self._ends = np.cumsum([len(key) for _, key in found])
        self._text = b"".join(key for _, key in found)

    def _keys(self, k: int) -> list[bytes]:
        path = self.bases[k]
        try:
            with self._environment(k).begin() as reading, reading.cursor() as cursor:
                return list(cursor.iternext(values=False))
        except _errors() as error:
            raise InputError(f"{path} cannot be read ({error}): it is damaged, download it again") from error

    def _environment(self, k: int) -> Any:
        if k not in self._environments:
            self._environments[k] = _environment(self.bases[k])
        return self._environments[k]

    def _key(self, index: int) -> bytes:
        return self._text[self._ends[index - 1] if index else 0 : self._ends[index]]

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Record:
        with self._environment(int(self._of[index])).begin(buffers=True) as reading:
            image = reading.get(self._key(index))
            if image is None or len(image) > FILE_BYTES:
                raise ValueError("it is gone" if image is None else f"it has {len(image)} bytes")
            return {"image": bytes(image), "label": 0}

    def name(self, index: int) -> str:
        return f"{self.bases[self._of[index]]}/{self._key(index).decode(errors='backslashreplace')}"

    def __getstate__(self) -> dict[str, Any]:  # for worker processes, which open the files themselves
        return {**self.__dict__, "_environments": {}}


def _bases(top: pathlib.Path, split: str) -> tuple[list[str], bool]:
    """The data bases of a split, and whether each split has its own."""
    if (top / FILE).exists():
        return [str(top)], False
    found = {path.parent.name: str(path.parent) for path in sorted(top.glob(f"*/{FILE}"))}
    if not found:
        raise InputError(f"data.path {str(top)!r} holds no {FILE}: give the folder of a data base of LSUN, or of some")
    if split == "all":
        return list(found.values()), True
    for wanted in _NAMES.get(split, (split,)):
        if chosen := [path for name, path in found.items() if wanted in name.split("_")]:
            return chosen, True
    raise NoSplitError(f"{top} has no data base for split {split!r}: there are {', '.join(found)}")


def _errors() -> tuple[type[Exception], ...]:
    return (importlib.import_module("lmdb").Error, OSError)


def _environment(path: str) -> Any:
    """The data base of a folder, of which a process holds one at most; it stays open as long as somebody has it."""
    lmdb: Any = importlib.import_module("lmdb")
    real, file = os.path.realpath(path), os.path.join(path, FILE)
    with _opening:
        if (held := _open.get(real)) is not None:
            return held
        try:
            status = os.stat(file)
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{file} is {kind_of(status.st_mode)}, expected a regular file")
            base = lmdb.open(real, readonly=True, lock=False, readahead=False, meminit=False)
        except _errors() as error:
            raise InputError(f"{file} cannot be read ({error}): it is damaged, download it again") from error
        expected = (base.info()["last_pgno"] + 1) * base.stat()["psize"]
        if status.st_size < expected:
            with contextlib.closing(base):
                raise InputError(
                    f"{file} has {status.st_size:,} bytes, expected {expected:,}: it is cut short, download it again"
                )
        _open[real] = base
        return base
