"""The functions that a PyTorch file may call: each makes a view, a number or a text, and checks what it is given."""

import collections
import math
from collections.abc import Callable

import numpy as np

from rqjax.errors import InputError, printable
from rqjax.store.dtypes import DTYPES
from rqjax.torchfile import numpy_pickles
from rqjax.torchfile.pickles import SUBCLASSES

EXPANDED_BYTES = 2**23
"""A tensor may claim this much, even if its storage is smaller, as that of an expanded one is."""
UNSUPPORTED = ("sparse_tensor", "sparse_csr_tensor", "qtensor", "nested_tensor", "wrapper_subclass")


def _refuse(*_: object) -> object:
    raise InputError(
        "it holds a sparse, quantized, nested or wrapped tensor, or one without data (on the meta device), expected "
        "dense tensors: convert it with PyTorch before saving"
    )


def _tensor(storage: object, offset: object, size: object, stride: object, *_: object) -> np.ndarray:
    """The tensor of shape `size` that looks at the 1-D array `storage` from `offset` on: a view, never a copy.

    `offset` and `stride` count elements. Raises InputError where it would reach past the storage.
    """
    if not isinstance(storage, np.ndarray) or storage.ndim != 1 or not storage.flags.c_contiguous:
        raise TypeError("a tensor has no storage")
    shape, steps, (start,) = _counts(size), _counts(stride), _counts((offset,))
    if math.prod(max(length, 1) for length in shape) * storage.itemsize > max(storage.nbytes, EXPANDED_BYTES):
        raise InputError(f"a tensor claims the size {shape}, more than its storage holds: the file is damaged")
    if 0 in shape:
        return np.empty(shape, storage.dtype)
    last = start + sum((length - 1) * step for length, step in zip(shape, steps, strict=True))
    if last >= storage.size:
        raise InputError(f"a tensor reaches element {last} of a storage of {storage.size}: the file is damaged")
    strides = [storage.itemsize * (step if length > 1 else 1) for length, step in zip(shape, steps, strict=True)]
    # the buffer protocol does not know bfloat16, so the array is laid over the bytes
    return np.ndarray(shape, storage.dtype, storage.view(np.uint8), start * storage.itemsize, strides)


def _tensor_v2(
    storage: object, offset: object, size: object, stride: object, grad: object, hooks: object, bits: object = None
) -> np.ndarray:
    lazy = isinstance(bits, dict) and any(bits.get(bit, False) is not False for bit in ("conj", "neg"))
    if lazy or not isinstance(bits, (dict, type(None))):
        raise InputError("it holds a lazily conjugated or negated tensor: call resolve_conj() or resolve_neg() first")
    return _tensor(storage, offset, size, stride)


def _tensor_v3(
    storage: object, offset: object, size: object, stride: object, grad: object, hooks: object,
    dtype: object, bits: object = None,
) -> np.ndarray:  # fmt: skip
    """A tensor of an element type that has no storage of its own, over a storage of bytes."""
    name = dtype.removeprefix("torch.") if isinstance(dtype, str) else getattr(dtype, "name", None)
    if not isinstance(name, str) or name not in DTYPES:
        raise InputError(f"it holds a tensor of type {printable(name, 60)}, expected one of {', '.join(DTYPES)}")
    if not isinstance(storage, np.ndarray) or storage.dtype != np.uint8 or storage.ndim != 1:
        raise TypeError("the storage of a tensor is not bytes")
    whole = storage[: storage.size - storage.size % DTYPES[name].itemsize].view(DTYPES[name])
    return _tensor_v2(whole, offset, size, stride, grad, hooks, bits)


def _counts(values: object) -> tuple[int, ...]:
    """`values` if they are at most 64 lengths."""
    if not isinstance(values, (tuple, list)) or len(values) > 64:
        raise TypeError("the size of a tensor is not a tuple of at most 64 lengths")
    if not all(type(value) is int and 0 <= value < 2**62 for value in values):
        raise ValueError("a size, stride or offset of a tensor is not a count")
    return tuple(values)


def _device(kind: object, index: object = None) -> str:
    if not isinstance(kind, str) or not isinstance(index, (int, type(None))):
        raise TypeError("a device is not a name and a number")
    return kind if index is None else f"{kind}:{index}"


def _same(value: object, *_: object) -> object:
    return value


CONSTRUCTORS: dict[tuple[str, str], Callable[..., object]] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): lambda *_: {},
    ("collections", "Counter"): dict,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "bytearray"): lambda data=b"", *encoding: bytearray(numpy_pickles.encode(data, *encoding)),
    ("builtins", "complex"): lambda real, imaginary: float(real) + 1j * float(imaginary),
    ("_codecs", "encode"): numpy_pickles.encode,
    ("numpy.core.multiarray", "scalar"): numpy_pickles.scalar,
    ("numpy.core.multiarray", "_reconstruct"): lambda subtype, shape, code: np.empty(0, np.int8),  # set_state fills it
    ("torch", "Size"): _counts,
    ("torch", "device"): _device,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    **{("torch._utils", f"_rebuild_{kind}"): _refuse for kind in (*UNSUPPORTED, "meta_tensor_no_storage")},
    **{("torch._utils", f"_rebuild_parameter{kind}"): _same for kind in ("", "_with_state")},
    **{("torch._utils", f"_rebuild_device_tensor_from_{kind}"): _same for kind in ("numpy", "cpu_tensor")},
    **dict.fromkeys(SUBCLASSES, _same),
}
"""By module and name: functions of ours, and the types of containers, which the reader fills."""
