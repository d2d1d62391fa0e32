"""NumPy's scalars and arrays inside a pickle, as optimizers and loggers leave them in checkpoints."""

import math
from typing import Any, cast

import numpy as np

from rqjax.errors import InputError, printable
from rqjax.torchfile.foreign import Foreign

NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")


def encode(data: object, encoding: object = "latin1") -> bytes:
    """The bytes that `data` is: bytes, or text with one character for each, as protocol 2 and Python 2 write."""
    if isinstance(data, str) and encoding in ("latin1", "latin-1"):
        return data.encode("latin1")
    if not isinstance(data, (bytes, bytearray)):
        raise TypeError(f"bytes are written as a {type(data).__name__}")
    return bytes(data)


def _dtype(foreign: object) -> np.dtype:
    """The dtype that a foreign `numpy.dtype` describes by its arguments and its state (version, byte order, ...)."""
    match foreign:
        case Foreign(name="dtype", arguments=(str() as code, *_), state=(_, "<" | ">" | "|" as order, *_)) if (
            code in NUMBERS
        ):
            return np.dtype(order + code)
        case Foreign(arguments=(str() as code, *_)):
            raise InputError(
                f"it holds a NumPy array of {printable(code, 60)!r}, expected numbers: save it without that"
            )
    raise TypeError("a NumPy array has no type")


def scalar(dtype: object, data: object) -> object:
    """A NumPy number from its type and its bytes."""
    (number,) = np.frombuffer(encode(data), _dtype(dtype))
    return number


def set_state(array: np.ndarray, state: object) -> None:
    """Makes `array`, an empty one of this pickle, that of `state` (version, shape, dtype, Fortran order, content)."""
    if array.shape != (0,) or array.dtype != np.int8 or not array.flags.owndata or not isinstance(state, tuple):
        raise TypeError("it sets the state of a tensor")
    _, shape, foreign, fortran, data = state
    dtype, content = _dtype(foreign), encode(data)
    if not isinstance(shape, tuple) or not all(type(length) is int and 0 <= length < 2**40 for length in shape):
        raise TypeError("the shape of a NumPy array is not a tuple of lengths")
    if math.prod(shape) * dtype.itemsize != len(content) or math.prod(max(length, 1) for length in shape) > 2**40:
        raise ValueError(f"a NumPy array of shape {shape[:64]} has {len(content)} bytes")
    cast(Any, array).__setstate__((1, shape, dtype, fortran is True, content))
