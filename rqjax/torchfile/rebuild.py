"""The constructors that a PyTorch file may call: each builds a container or a view, and checks what it is given."""

import collections
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rqjax.errors import InputError
from rqjax.store.dtypes import DTYPES
from rqjax.torchfile import numpy_pickles
from rqjax.torchfile.foreign import Constructor, Foreign, hashable

UNSUPPORTED = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_qtensor": "a quantized tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor without data (on the meta device)",
    "_rebuild_wrapper_subclass": "a tensor of a wrapping subclass",
}
OTHER_DTYPES = ("complex32", "quint8", "qint8", "qint32", "quint4x2", "quint2x4", "float8_e4m3fnuz", "float8_e5m2fnuz")


def allowed(largest: int) -> Mapping[tuple[str, str], Any]:
    """What each (module, name) that is not foreign stands for: a function that builds its objects, or a string.

    No tensor may claim more than `largest` bytes: an expanded tensor has more elements than its storage.
    """

    def rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
        return strided(storage, offset, size, stride, largest)

    def rebuild_tensor_v2(storage: Any, offset: Any, size: Any, stride: Any, _: Any, hooks: Any, metadata: Any = None):
        _refuse_lazy_bits(metadata)
        return strided(storage, offset, size, stride, largest)

    def rebuild_tensor_v3(
        storage: Any, offset: Any, size: Any, stride: Any, _: Any, hooks: Any, dtype: Any, metadata: Any = None
    ):
        _refuse_lazy_bits(metadata)
        return strided(_typed(storage, dtype), offset, size, stride, largest)

    table: dict[tuple[str, str], Any] = {("torch", name): f"torch.{name}" for name in (*DTYPES, *OTHER_DTYPES)}
    table |= {("torch._utils", name): _refuse(what) for name, what in UNSUPPORTED.items()}
    table |= {("torch._utils", "_rebuild_tensor"): rebuild_tensor}
    table |= {("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor_v2}
    table |= {("torch._utils", "_rebuild_tensor_v3"): rebuild_tensor_v3}
    return table | CONTAINERS | WRAPPERS | numpy_pickles.CONSTRUCTORS


def _refuse(what: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise InputError(f"it holds {what}, expected dense tensors: convert it with PyTorch before saving")

    return refuse


def _refuse_lazy_bits(metadata: Any) -> None:
    if metadata and (not isinstance(metadata, dict) or any(metadata.get(bit) for bit in ("conj", "neg"))):
        raise InputError("it holds a lazily conjugated or negated tensor: call resolve_conj() or resolve_neg() first")


def _typed(storage: Any, dtype: Any) -> np.ndarray:
    name = dtype.removeprefix("torch.") if isinstance(dtype, str) else type(dtype).__name__
    if name not in DTYPES:
        raise InputError(f"it holds a tensor of type {name[:40]!r}, expected one of {', '.join(DTYPES)}")
    if not isinstance(storage, np.ndarray) or storage.dtype != np.uint8 or storage.ndim != 1:
        raise InputError("its pickle is damaged (a tensor's storage is not bytes)")
    return storage[: storage.size - storage.size % DTYPES[name].itemsize].view(DTYPES[name])


def _counts(values: Any) -> tuple[int, ...]:
    """`values` if it is a tuple of at most 64 lengths."""
    if not isinstance(values, (tuple, list)) or len(values) > 64:
        raise InputError("its pickle is damaged (a tensor's size is not a tuple of at most 64 lengths)")
    if not all(type(value) is int and 0 <= value < 2**62 for value in values):
        raise InputError("its pickle is damaged (a tensor's size, stride or offset is not a count)")
    return tuple(values)


def strided(storage: Any, offset: Any, size: Any, stride: Any, largest: int) -> np.ndarray:
    """The tensor of shape `size` that looks at the 1-D array `storage` from `offset` on: a view, never a copy.

    `offset` and `stride` count elements. Raises InputError where it would reach past the storage or exceed `largest`.
    """
    if not isinstance(storage, np.ndarray) or storage.ndim != 1 or not storage.flags.c_contiguous:
        raise InputError("its pickle is damaged (a tensor has no storage)")
    shape, steps, (start,) = _counts(size), _counts(stride), _counts((offset,))
    if len(shape) != len(steps):
        raise InputError("its pickle is damaged (a tensor's size and stride differ in length)")
    if math.prod(max(length, 1) for length in shape) * storage.itemsize > max(largest, 2**20):
        raise InputError(f"a tensor claims the size {shape}, more than the file holds: the file is damaged")
    if 0 in shape:
        return np.empty(shape, storage.dtype)
    last = start + sum((length - 1) * step for length, step in zip(shape, steps, strict=True))
    if last >= storage.size:
        raise InputError(f"a tensor reaches element {last} of a storage of {storage.size}: the file is damaged")
    strides = tuple(
        step * storage.itemsize if length > 1 else storage.itemsize for length, step in zip(shape, steps, strict=True)
    )
    # the buffer protocol does not know bfloat16, so the array is laid over the bytes
    return np.ndarray(shape, storage.dtype, storage.view(np.uint8), start * storage.itemsize, strides)


def _ordered(pairs: Any = ()) -> collections.OrderedDict:
    result = collections.OrderedDict()
    for pair in pairs.items() if isinstance(pairs, dict) else pairs if isinstance(pairs, (list, tuple)) else [None]:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise InputError("its pickle is damaged (a dictionary is not made of pairs)")
        result[hashable(pair[0])] = pair[1]
    return result


def _members(values: Any) -> list[Any]:
    if not isinstance(values, (list, tuple, set, frozenset)):
        raise InputError(f"its pickle is damaged (a set is made of a {type(values).__name__})")
    return [hashable(value) for value in values]


def _complex(real: Any, imaginary: Any) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise InputError("its pickle is damaged (a complex number is not made of two floats)")
    return complex(real, imaginary)


def _size(values: Any) -> tuple[int, ...]:
    return _counts(values)


def _device(kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str) or not isinstance(index, (int, type(None))):
        raise InputError("its pickle is damaged (a device is not a name and a number)")
    return kind if index is None else f"{kind}:{index}"


def _from_type(build: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor with attributes or of a subclass becomes a plain one; what a foreign function builds stays foreign."""
    if not isinstance(build, Foreign) or not isinstance(arguments, tuple):
        raise InputError("its pickle is damaged (a tensor's subclass is not built by a function)")
    if isinstance(build, Constructor) and not build.name.startswith("_rebuild_from_type"):
        return build.construct(arguments)
    return Foreign(build.module, build.name, arguments)


CONTAINERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _ordered,
    ("collections", "defaultdict"): lambda factory=None, pairs=(): dict(_ordered(pairs)),
    ("collections", "Counter"): lambda pairs=(): dict(_ordered(pairs)),
    ("builtins", "set"): lambda values=(): set(_members(values)),
    ("builtins", "frozenset"): lambda values=(): frozenset(_members(values)),
    ("builtins", "bytearray"): lambda data=b"", encoding="latin1": bytearray(numpy_pickles.encode(data, encoding)),
    ("builtins", "complex"): _complex,
    ("_codecs", "encode"): numpy_pickles.encode,
}
WRAPPERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch", "Size"): _size,
    ("torch", "device"): _device,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, requires_grad, hooks: tensor,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda tensor, requires_grad, hooks, state: tensor,
    ("torch._utils", "_rebuild_device_tensor_from_numpy"): lambda array, dtype, device, requires_grad: array,
    ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): lambda array, dtype, device, requires_grad: array,
    ("torch._tensor", "_rebuild_from_type"): _from_type,
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("torch.tensor", "_rebuild_from_type"): _from_type,
}
