"""The zip archive and the pickle of a new PyTorch checkpoint, written as the values come."""

import collections
import math
import struct
import sys
import zipfile
from collections.abc import Mapping
from typing import IO

import numpy as np

from rqjax.errors import InputError
from rqjax.store.dtypes import DTYPES, STORAGES

ALIGNMENT = 64
"""Storages start at multiples of this, as torch.save has them."""
ZIP64_FROM = 2**30
"""Records of this size get 64-bit lengths, which take 20 bytes of their header."""
NESTING = 100

TYPED = {dtype: name for name, dtype in STORAGES.items() if name != "UntypedStorage"}
UNTYPED = {dtype: name for name, dtype in DTYPES.items() if dtype not in TYPED}


def write_archive(file: IO[bytes], value: object) -> None:
    """Writes `value` to the empty `file`: the storages first, as they come, then the pickle that names them."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        pickle = _Pickle(file, archive)
        pickle.add(value, "the checkpoint")
        # no .format_version: it would promise that offsets can be computed, which holds for PyTorch's own writer alone
        pickle.write("byteorder", sys.byteorder.encode())
        pickle.write("version", b"3\n")
        pickle.write("data.pkl", b"\x80\2" + bytes(pickle.code) + b".")


class _Pickle:
    """Pickles of protocol 2, made of the instructions that PyTorch's restricted unpickler accepts."""

    def __init__(self, file: IO[bytes], archive: zipfile.ZipFile):
        self.file, self.archive = file, archive
        self.code = bytearray()
        # by the identity of the value that gave it, which is kept so that no other takes its place
        self.stored: dict[int, tuple[object, str, np.dtype, tuple[int, ...]]] = {}

    def write(self, name: str, content: bytes | memoryview) -> None:
        """A record whose content starts at a multiple of ALIGNMENT."""
        entry = zipfile.ZipInfo(f"archive/{name}")
        entry.file_size, large = len(content), len(content) >= ZIP64_FROM
        header = self.file.tell() + 30 + len(entry.filename) + 4 + (20 if large else 0)
        padding = -header % ALIGNMENT
        entry.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
        with self.archive.open(entry, "w", force_zip64=large) as record:
            record.write(content)

    def add(self, value: object, where: str, depth: int = 0) -> None:
        """Appends the instructions that make `value`; `where` names its place in messages."""
        if depth > NESTING:
            raise InputError(f"{where[:200]} nests deeper than {NESTING} or contains itself")
        value = value.item() if isinstance(value, np.generic) else value
        if value is None or isinstance(value, bool):
            self.code += {None: b"N", True: b"\x88", False: b"\x89"}[value]
        elif isinstance(value, int):
            self._integer(value, where)
        elif isinstance(value, float):
            self.code += b"G" + struct.pack(">d", value)
        elif isinstance(value, str):
            encoded = value.encode("utf-8", "surrogatepass")
            self.code += b"X" + struct.pack("<I", len(encoded)) + encoded
        elif isinstance(value, bytes):
            self._call("_codecs\nencode", value.decode("latin1"), "latin1")
        elif isinstance(value, dict) and type(value) in (dict, collections.OrderedDict):
            self._dictionary(value, where, depth)
        elif isinstance(value, (list, tuple)) and type(value) in (list, tuple):
            self.code += b"(" if isinstance(value, tuple) else b"]("
            for index, item in enumerate(value):
                self.add(item, f"{where}[{index}]", depth + 1)
            self.code += b"t" if isinstance(value, tuple) else b"e"
        else:
            self._tensor(value, where)

    def _integer(self, value: int, where: str) -> None:
        length = value.bit_length() // 8 + 1
        if -(2**31) <= value < 2**31:
            self.code += b"J" + struct.pack("<i", value)
        elif length < 256:
            self.code += b"\x8a" + bytes([length]) + value.to_bytes(length, "little", signed=True)
        else:
            raise InputError(f"{where[:200]} is an integer of {length} bytes, expected at most 255")

    def _global(self, name: str) -> None:
        """The function or class `name`, its module on a line of its own."""
        self.code += b"c" + name.encode() + b"\n"

    def _call(self, function: str, *arguments: object) -> None:
        self._global(function)
        self.add(arguments, function)
        self.code += b"R"

    def _dictionary(self, value: Mapping[object, object], where: str, depth: int) -> None:
        if isinstance(value, collections.OrderedDict):
            self._call("collections\nOrderedDict")
        else:
            self.code += b"}"
        self.code += b"("
        for key, item in value.items():
            if not isinstance(key, (str, int, float, bytes)):
                raise InputError(f"{where[:200]} has a key of type {type(key).__name__}, expected text or a number")
            self.add(key, f"a key of {where}", depth + 1)
            self.add(item, f"{where}[{key!r}]", depth + 1)
        self.code += b"u"

    def _tensor(self, value: object, where: str) -> None:
        if id(value) not in self.stored:
            self.stored[id(value)] = (value, *self._store(value, where))
        _, key, dtype, shape = self.stored[id(value)]
        typed, count = dtype in TYPED, math.prod(shape)
        self._global(f"torch._utils\n_rebuild_tensor_v{2 if typed else 3}")
        self.code += b"(("
        self.add("storage", where)
        self._global(f"torch\n{TYPED[dtype]}" if typed else "torch.storage\nUntypedStorage")
        for field in (key, "cpu", count if typed else count * dtype.itemsize):
            self.add(field, where)
        self.code += b"tQ"
        strides = tuple(math.prod(max(length, 1) for length in shape[axis + 1 :]) for axis in range(len(shape)))
        for field in (0, shape, strides, False, collections.OrderedDict()):
            self.add(field, where)
        if not typed:
            self._global(f"torch\n{UNTYPED[dtype]}")
        self.code += b"tR"

    def _store(self, value: object, where: str) -> tuple[str, np.dtype, tuple[int, ...]]:
        """Writes the data of an array, or of what a function returns, as the next storage: (key, type, shape)."""
        value = value() if callable(value) else value
        if not hasattr(value, "shape") or not hasattr(value, "dtype"):
            kind = type(value).__name__
            raise InputError(f"{where[:200]} is a {kind}, expected an array, a number, text or a container")
        array = np.asarray(value)
        dtype = array.dtype.newbyteorder("=") if array.dtype.byteorder in "<>" else array.dtype
        if dtype not in TYPED and dtype not in UNTYPED:
            raise InputError(f"{where[:200]} is an array of {dtype}, expected one of {', '.join(DTYPES)}")
        key = str(len(self.stored))
        self.write(f"data/{key}", np.ascontiguousarray(array, dtype).reshape(-1).view(np.uint8).data)
        return key, dtype, array.shape
