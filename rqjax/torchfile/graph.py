"""Constants of a frozen TensorFlow graph (GraphDef), read without TensorFlow: FID's first Inception is such a file.

Of the protocol buffers' wire format the four kinds of fields are read, to the depth of a constant's values; everything
else is passed over. Nothing of the graph is run.
"""

import dataclasses
import math
import pathlib
import struct
from collections.abc import Iterator, Mapping

import numpy as np

from rqjax.errors import DAMAGED, InputError

MOST_BYTES, MOST_NODES, MOST_DIMS = 2**30, 100_000, 8
NODE, NAME, OP, ATTRIBUTE = 1, 1, 2, 5
"""Fields of GraphDef, and of NodeDef."""
KEY, VALUE = 1, 2
"""Fields of an entry of a map."""
REAL, TRUTH, TENSOR = 4, 5, 8
"""Fields of AttrValue."""
KIND, SHAPE, CONTENT, FLOATS = 1, 2, 4, 5
"""Fields of TensorProto; that of a shape's sizes, and of a size, are DIM and SIZE."""
DIM, SIZE = 2, 1
FLOAT32 = 1
"""The kind of tensors that are read."""
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Kinds of fields."""
Field = tuple[int, int, int | memoryview]


@dataclasses.dataclass(frozen=True)
class Node:
    """A node of the graph: its constant, if it is one, and its attributes that are numbers."""

    op: str
    constant: np.ndarray | None
    attributes: Mapping[str, float | bool]


def read_graph(path: str | pathlib.Path) -> dict[str, Node]:
    """The nodes of a file by name, with constants of float32 alone.

    Raises InputError for a file that is none of a graph, damaged, or larger than any of these.
    """
    path = pathlib.Path(path)
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            raise InputError("expected a file of a frozen TensorFlow graph (.pb)")
        nodes = {}
        for number, kind, value in _fields(memoryview(path.read_bytes())):
            if number == NODE and kind == BYTES:
                name, node = _node(_view(value))
                nodes[name] = node
                if len(nodes) > MOST_NODES:
                    raise InputError(f"more than {MOST_NODES:,} nodes: {DAMAGED}")
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if not any(node.constant is not None for node in nodes.values()):
        raise InputError(f"{path}: no constants in it, expected a frozen TensorFlow graph (.pb)")
    return nodes


def _fields(data: memoryview) -> Iterator[Field]:
    """The fields of a message: number, kind, and a number or bytes."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, place = _varint(data, place)
            yield number, kind, value
            continue
        if kind == BYTES:
            length, place = _varint(data, place)
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise InputError(f"a field of kind {kind}: {DAMAGED}, or no TensorFlow graph")
        if not number or length > len(data) - place:
            raise InputError(f"a field {number} of {length} bytes where {len(data) - place} are left: {DAMAGED}")
        yield number, kind, data[place : place + length]
        place += length


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise InputError(f"it ends within a number: {DAMAGED}")
        byte = data[place]
        value, place = value | (byte & 0x7F) << shift, place + 1
        if byte < 0x80:
            return value, place
    raise InputError(f"a number of more than ten bytes: {DAMAGED}")


def _node(data: memoryview) -> tuple[str, Node]:
    name, op, attributes = "", "", {}
    constant = None
    for number, kind, value in _fields(data):
        if number in (NAME, OP) and kind == BYTES:
            text = bytes(_view(value)).decode("utf-8", "replace")
            name, op = (text, op) if number == NAME else (name, text)
        elif number == ATTRIBUTE and kind == BYTES:
            parts = {n: v for n, k, v in _fields(_view(value)) if k == BYTES}
            key, attribute = bytes(parts.get(KEY, b"")).decode("utf-8", "replace"), parts.get(VALUE, memoryview(b""))
            for inner, inner_kind, found in _fields(_view(attribute)):
                if inner == REAL and inner_kind == FIXED32:
                    attributes[key] = float(struct.unpack("<f", _view(found))[0])
                elif inner == TRUTH and inner_kind == VARINT:
                    attributes[key] = bool(found)
                elif inner == TENSOR and inner_kind == BYTES and key == "value":
                    constant = _tensor(_view(found))
    return name, Node(op, constant if op == "Const" else None, attributes)


def _tensor(data: memoryview) -> np.ndarray | None:
    """The numbers of a tensor of float32; None for one of another kind."""
    kind_of, sizes, content, floats = 0, [], memoryview(b""), []
    for number, kind, value in _fields(data):
        if number == KIND and kind == VARINT:
            kind_of = value
        elif number == SHAPE and kind == BYTES:
            sizes = [_size(_view(v)) for n, k, v in _fields(_view(value)) if n == DIM and k == BYTES]
        elif number == CONTENT and kind == BYTES:
            content = _view(value)
        elif number == FLOATS and kind in (BYTES, FIXED32):
            floats.append(_view(value))
    if kind_of != FLOAT32:
        return None
    count = math.prod(sizes)
    raw = bytes(content) or b"".join(floats)
    if len(sizes) > MOST_DIMS or len(raw) % 4 or (len(raw) != 4 * count and len(raw) != 4) or 4 * count > MOST_BYTES:
        raise InputError(f"a tensor of shape {sizes[:MOST_DIMS]} has {len(raw)} bytes: {DAMAGED}")
    found = np.frombuffer(raw, "<f4")
    return np.full(sizes, found[0]) if found.size == 1 else found.reshape(sizes)


def _size(data: memoryview) -> int:
    sizes = [value for number, kind, value in _fields(data) if number == SIZE and kind == VARINT]
    if not sizes or not isinstance(sizes[-1], int) or sizes[-1] >= 2**31:
        raise InputError(f"a tensor without a size: {DAMAGED}")
    return sizes[-1]


def _view(value: int | memoryview) -> memoryview:
    assert isinstance(value, memoryview)
    return value
