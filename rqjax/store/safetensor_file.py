"""Files of the safetensors format: eight bytes of length, a JSON header, the data of all tensors without gaps.

The safetensors package checks what is read. It does not read or write by itself, since it holds everything in memory:
of 2 GiB in 32 tensors its reader takes 4,096 MiB and these views nothing, its writer 2,048 MiB and this one 64.
"""

import json
import math
import mmap
import os
import zlib
from collections.abc import Iterable, Mapping
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from rqjax.errors import DAMAGED, InputError
from rqjax.store.atomic import replacing
from rqjax.store.dtypes import DTYPES

HEADER_BYTES = 10_000_000
"""The longest header, enough for 100,000 tensors; the format allows ten times more."""
ALIGNMENT = 8
"""The data starts at a multiple of this, as the format asks of writers."""
METADATA = "__metadata__"
SUMS = "crc32"
"""The key of the checksums in the metadata."""

NAMES = (
    "F64:float64 F32:float32 F16:float16 BF16:bfloat16 F8_E4M3:float8_e4m3fn F8_E5M2:float8_e5m2 I64:int64 I32:int32 "
    "I16:int16 I8:int8 U64:uint64 U32:uint32 U16:uint16 U8:uint8 BOOL:bool C64:complex64"
)
DTYPE_OF = {code: DTYPES[name] for code, name in (pair.split(":") for pair in NAMES.split())}
"""Element types by their name in the header."""
CODE_OF = {dtype: code for code, dtype in DTYPE_OF.items()}


def load_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of a .safetensors file by name, in the order of the file, and its metadata (texts by name).

    The arrays are read-only and look at the mapped file: nothing is read until they are used.
    Raises InputError for a file that is truncated, damaged or of another format.
    """
    try:
        with open(path, "rb") as file:
            size, length = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(HEADER_BYTES, size - 8):
                raise InputError(f"its header would have {length} bytes in a file of {size}: {DAMAGED}")
            content = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)[8 + length :]
        return _views(path, content)
    except OSError as error:
        raise InputError(f"{os.fspath(path)}: {error.strerror}, expected a .safetensors file") from None
    except InputError as error:
        raise InputError(f"{os.fspath(path)}: {error}") from None
    except (SafetensorError, ValueError, TypeError) as error:  # the last two: shapes that NumPy refuses
        raise InputError(f"{os.fspath(path)}: {DAMAGED} ({str(error)[:200]!r})") from None


def _views(path: str | os.PathLike[str], content: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Each tensor as a view on `content`, which they cover in their order, as the package has made sure."""
    arrays, position = {}, 0
    with safe_open(path, framework="np") as checked:
        for name in checked.offset_keys():
            code, shape = checked.get_slice(name).get_dtype(), checked.get_slice(name).get_shape()
            if code not in DTYPE_OF:
                raise InputError(f"{name[:60]!r} has the element type {code}, expected one of {', '.join(DTYPE_OF)}")
            arrays[name] = np.ndarray(shape, DTYPE_OF[code], content, position)
            position += arrays[name].nbytes
        return arrays, checked.metadata() or {}


def check_sums(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str], names: Iterable[str]
) -> None:
    """Compares `arrays` of these names with the checksums in the file's metadata, if it has any: it reads them whole.

    Raises InputError naming an array that is not as it was written.
    """
    try:
        sums = json.loads(metadata.get(SUMS, "null"))
        for name in names:
            if sums is not None and sums[name] != _sum(_bytes(arrays[name])):
                raise InputError(f"{os.fspath(path)}: the tensor {name} is not as it was written: {DAMAGED}")
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{os.fspath(path)}: its checksums cannot be read ({error!r}): {DAMAGED}") from None


def _sum(content: np.ndarray) -> str:
    """The CRC-32 of bytes in eight digits."""
    return f"{zlib.crc32(content.data):08x}"


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def save_safetensors(
    path: str | os.PathLike[str],
    arrays: Mapping[str, object],
    metadata: Mapping[str, str] | None = None,
    *,
    checksums: bool = False,
) -> None:
    """Writes `arrays` and `metadata` to `path` as a .safetensors file, which appears only when it is complete.

    An array is anything with `shape` and `dtype` that NumPy can read (NumPy's, JAX's, a view on a file): one at a time
    is brought into memory. Wider element types come first, so that all data is aligned; among equals the order is kept.
    With `checksums` the metadata have the CRC-32 of each array's bytes as "crc32": JSON, eight digits by name.
    Raises InputError for other values and for element types that the format lacks.
    """
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    known = {name: _described(name, array) for name, array in arrays.items()}
    names, position = sorted(arrays, key=lambda name: -known[name][0].itemsize), 0
    for name in names:
        dtype, shape = known[name]
        stop = position + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": CODE_OF[dtype], "shape": shape, "data_offsets": [position, stop]}
        position = stop
    sums: dict[str, str] = dict.fromkeys(names, "0" * 8) if checksums else {}  # of the length of those that follow
    text = _text(header, sums)
    if len(text) > HEADER_BYTES:
        raise InputError(
            f"the header would have {len(text)} bytes, expected at most {HEADER_BYTES}: store fewer arrays"
        )
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            check = _written(file, arrays[name], known[name][0])
            if checksums:
                sums[name] = check
        file.seek(8)
        file.write(_text(header, sums))


def _written(file: IO[bytes], array: object, dtype: np.dtype) -> str:
    """Writes one array, which this alone holds; its checksum."""
    content = _bytes(np.asarray(array, dtype))
    file.write(content.data)
    return _sum(content)


def _text(header: Mapping[str, Any], sums: Mapping[str, str]) -> bytes:
    """The header with the checksums, if there are any, among its metadata."""
    if sums:
        metadata = {**header.get(METADATA, {}), SUMS: json.dumps(sums, separators=(",", ":"))}
        header = {METADATA: metadata} | {name: entry for name, entry in header.items() if name != METADATA}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % ALIGNMENT)


def _described(name: str, array: object) -> tuple[np.dtype, list[int]]:
    """The element type of an array in this machine's byte order, and its shape; InputError for what has none."""
    if name == METADATA or not hasattr(array, "shape") or not hasattr(array, "dtype"):
        raise InputError(f"{name[:60]!r} is a {type(array).__name__}, expected arrays by name")
    dtype = np.dtype(array.dtype)
    dtype = dtype.newbyteorder("=") if dtype.byteorder in "<>" else dtype
    if dtype not in CODE_OF:
        raise InputError(f"{name[:60]!r} is an array of {dtype}, expected one of {', '.join(map(str, CODE_OF))}")
    return dtype, [int(length) for length in array.shape]
