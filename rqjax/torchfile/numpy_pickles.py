"""NumPy's scalars and arrays inside a pickle, as optimizers and loggers leave them in checkpoints."""

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from rqjax.errors import InputError
from rqjax.torchfile.foreign import Foreign

NUMBERS = frozenset("b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16".split())  # noqa: SIM905


def encode(data: Any, encoding: Any = "latin1") -> bytes:
    """The bytes that `data` is: bytes, or text with one character for each, as protocol 2 and Python 2 write."""
    if isinstance(data, (bytes, bytearray)):
        return bytes(data)
    latin = isinstance(data, str) and all(ord(letter) < 256 for letter in data)
    if not latin or encoding not in ("latin1", "latin-1"):
        raise InputError(f"its pickle is damaged (bytes are written as a {type(data).__name__})")
    return data.encode("latin1")


def _dtype(foreign: Any) -> np.dtype:
    """The dtype that a foreign `numpy.dtype` describes by its arguments and its state (version, byte order, ...)."""
    code = foreign.arguments[0] if isinstance(foreign, Foreign) and foreign.arguments else None
    if not isinstance(foreign, Foreign) or foreign.name != "dtype" or not isinstance(code, str) or code not in NUMBERS:
        kind = repr(code[:20]) if isinstance(code, str) else "an unknown type"
        raise InputError(f"it holds a NumPy array of {kind}, expected numbers: save the tensors without it")
    order = foreign.state[1] if isinstance(foreign.state, tuple) and len(foreign.state) > 1 else "|"
    if not isinstance(order, str) or order not in ("<", ">", "|", "="):
        raise InputError("its pickle is damaged (a NumPy array has no byte order)")
    return np.dtype(code).newbyteorder(order)


def _scalar(dtype: Any, data: Any) -> Any:
    kind, content = _dtype(dtype), encode(data)
    if len(content) != kind.itemsize:
        raise InputError("its pickle is damaged (a NumPy number has the wrong length)")
    return np.frombuffer(content, kind)[0]


def _reconstruct(subtype: Any, shape: Any, code: Any) -> np.ndarray:
    """An empty array, which the pickle fills later by setting its state."""
    return np.empty(0, np.int8)


def set_state(array: Any, state: Any) -> None:
    """Makes `array`, which `_reconstruct` made, the one of `state` (version, shape, dtype, Fortran order, content).

    Raises InputError if it is anything else, or if shape and content disagree.
    """
    if type(array) is not np.ndarray or array.shape != (0,) or array.dtype != np.int8 or not array.flags.owndata:
        raise InputError(f"its pickle is damaged (it sets the state of a {type(array).__name__})")
    if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[1], tuple) or len(state[1]) > 32:
        raise InputError("its pickle is damaged (a NumPy array's state is not version, shape, type, order, content)")
    shape, dtype, content = state[1], _dtype(state[2]), encode(state[4])
    if not all(type(length) is int and 0 <= length < 2**62 for length in shape):
        raise InputError("its pickle is damaged (a NumPy array's shape is not a tuple of lengths)")
    if math.prod(shape) * dtype.itemsize != len(content) or math.prod(max(length, 1) for length in shape) > 2**40:
        raise InputError(f"its pickle is damaged (a NumPy array of shape {shape} has {len(content)} bytes)")
    cast(Any, array).__setstate__((1, shape, dtype, bool(state[3]), content))


CONSTRUCTORS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
}
