"""Files of the safetensors format: eight bytes of length, a JSON header, the data of all tensors without gaps."""

import json
import math
import mmap
import os
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from rqjax.errors import DAMAGED, InputError
from rqjax.store.atomic import replacing
from rqjax.store.dtypes import DTYPES

HEADER_BYTES = 100_000_000
"""The longest header that the format allows."""
ALIGNMENT = 8
"""The data starts at a multiple of this, as the format asks of writers."""
METADATA = "__metadata__"
CHUNK = 2**24

CODES = {
    "F64": DTYPES["float64"],
    "F32": DTYPES["float32"],
    "F16": DTYPES["float16"],
    "BF16": DTYPES["bfloat16"],
    "F8_E4M3": DTYPES["float8_e4m3fn"],
    "F8_E5M2": DTYPES["float8_e5m2"],
    "I64": DTYPES["int64"],
    "I32": DTYPES["int32"],
    "I16": DTYPES["int16"],
    "I8": DTYPES["int8"],
    "U64": DTYPES["uint64"],
    "U32": DTYPES["uint32"],
    "U16": DTYPES["uint16"],
    "U8": DTYPES["uint8"],
    "BOOL": DTYPES["bool"],
    "C64": DTYPES["complex64"],
}
"""Element types by their name in the header."""
NAMES = {dtype: name for name, dtype in CODES.items()}


def load_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of a .safetensors file by name, in the order of the file, and its metadata (texts by name).

    The arrays are read-only and look at the mapped file: nothing is read until they are used.
    Raises InputError for a file that is truncated, damaged or of another format.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(HEADER_BYTES, size - 8):
                raise InputError(f"its header would have {length} bytes in a file of {size}: {DAMAGED}")
            header = _parse(file.read(length))
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        metadata = header.pop(METADATA, {})
        if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
            raise InputError(f"its metadata is not a dictionary of texts: {DAMAGED}")
        return _views(np.frombuffer(mapped, np.uint8)[8 + length :], header), metadata
    except OSError as error:
        raise InputError(f"{os.fspath(path)}: {error.strerror}, expected a .safetensors file") from None
    except InputError as error:
        raise InputError(f"{os.fspath(path)}: {error}") from None


def _parse(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode(), object_pairs_hook=_unique)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error)[:200].split())
        raise InputError(f"its header is not JSON ({reason}): {DAMAGED}") from None
    if not isinstance(header, dict):
        raise InputError(f"its header is a JSON {type(header).__name__}, expected an object: {DAMAGED}")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise InputError(f"its header names a tensor twice: {DAMAGED}")
    return entries


def _views(content: np.ndarray, header: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Each tensor of the header as a view on `content`, which they must cover without gaps and overlaps."""
    spans = {name: _span(name, entry) for name, entry in header.items()}
    ends = [0]
    for start, stop in sorted(spans.values()):
        if start != ends[-1]:
            raise InputError(f"its tensors overlap or leave a gap at byte {start}: {DAMAGED}")
        ends.append(stop)
    if ends[-1] != content.size:
        raise InputError(f"its tensors end at {ends[-1]} of {content.size} bytes: {DAMAGED}")
    return {
        name: np.ndarray(tuple(entry["shape"]), CODES[entry["dtype"]], content, spans[name][0])
        for name, entry in header.items()
    }


def _span(name: str, entry: Any) -> tuple[int, int]:
    """The checked data_offsets of a header's entry."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise InputError(f"tensor {name[:60]!r} is not described by dtype, shape and data_offsets: {DAMAGED}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in CODES:
        kind = repr(dtype[:20]) if isinstance(dtype, str) else "no name"
        raise InputError(f"tensor {name[:60]!r} has the element type {kind}, expected one of {', '.join(CODES)}")
    lists = isinstance(shape, list) and isinstance(offsets, list) and len(shape) <= 64 and len(offsets) == 2
    if not lists or not all(type(length) is int and 0 <= length < 2**60 for length in [*shape, *offsets]):
        raise InputError(f"tensor {name[:60]!r} has a shape or offsets that are not lengths: {DAMAGED}")
    size = offsets[1] - offsets[0]
    uncountable = math.prod(max(length, 1) for length in shape) >= 2**59  # NumPy refuses even empty ones
    if size != math.prod(shape) * CODES[dtype].itemsize or uncountable:
        raise InputError(f"tensor {name[:60]!r} has {size} bytes, not those of its shape: {DAMAGED}")
    return offsets[0], offsets[1]


def save_safetensors(
    path: str | os.PathLike[str], arrays: Mapping[str, Any], metadata: Mapping[str, Any] | None = None
) -> None:
    """Writes `arrays` and `metadata` to `path` as a .safetensors file, which appears only when it is complete.

    An array is anything with `shape` and `dtype` that NumPy can read (NumPy's, JAX's, a view on a file): one at a time
    is brought into memory. Wider element types come first, so that all data is aligned; among equals the order is kept.
    Raises InputError for other values and for element types that the format lacks.
    """
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    if not all(isinstance(text, str) for text in header.get(METADATA, {}).values()):
        raise InputError("the metadata of a .safetensors file must map text to text")
    names = sorted(arrays, key=lambda name: -_dtype(name, arrays[name]).itemsize)
    position = 0
    for name in names:
        dtype, shape = _dtype(name, arrays[name]), [int(length) for length in arrays[name].shape]
        start, position = position, position + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": shape, "data_offsets": [start, position]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    if len(text) > HEADER_BYTES:
        raise InputError(f"the header would have {len(text)} bytes, the format allows {HEADER_BYTES}")
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            _write(file, np.ascontiguousarray(arrays[name], _dtype(name, arrays[name])))


def _write(file: IO[bytes], array: np.ndarray) -> None:
    content = array.reshape(-1).view(np.uint8).data
    for start in range(0, len(content), CHUNK):
        file.write(content[start : start + CHUNK])


def _dtype(name: str, array: Any) -> np.dtype:
    """The element type of `array` in this machine's byte order; InputError if the format has no name for it."""
    if name == METADATA or not hasattr(array, "shape") or not hasattr(array, "dtype"):
        raise InputError(f"{name[:60]!r} is a {type(array).__name__}, expected arrays by name")
    dtype = np.dtype(array.dtype)
    dtype = dtype.newbyteorder("=") if dtype.byteorder in "<>" else dtype
    if dtype not in NAMES:
        raise InputError(f"{name[:60]!r} is an array of {dtype}, expected one of {', '.join(map(str, NAMES))}")
    return dtype
