"""Checkpoint files of PyTorch, read and written without PyTorch and without running anything that they contain."""

import mmap
import os
from typing import Any

from rqjax.errors import DAMAGED, InputError, printable
from rqjax.store.atomic import replacing
from rqjax.torchfile.archive import read_archive
from rqjax.torchfile.legacy import read_legacy
from rqjax.torchfile.pickles import nesting
from rqjax.torchfile.write import write_archive


def load(path: str | os.PathLike[str], verify: bool = False) -> Any:
    """The object that torch.save wrote to `path` (.pt, .pth, .ckpt; the zip format or the one before PyTorch 1.6).

    Tensors and Parameters are read-only NumPy arrays of the same shape and type (bfloat16 is that of ml_dtypes) that
    look at the mapped file: nothing is read until they are used, and tensors that shared a storage still do.
    Containers, numbers, strings and bytes are Python's; torch.Size is a tuple, a torch.dtype or torch.device its name;
    NumPy's arrays and scalars stay. Objects of any other class are records of type `Foreign`: no code in the file runs.

    `verify` reads all data once and compares it with its checksums (only the zip format has any).
    Raises InputError for a file that is truncated, damaged, hostile or of another format, and for sparse and quantized
    tensors.
    """
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise InputError("the file is empty: download it again")
            value = _read(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), verify)
        nesting(value, {})
        return value
    except OSError as error:
        raise InputError(f"{os.fspath(path)}: {error.strerror}, expected a file that torch.save wrote") from None
    except InputError as error:
        raise InputError(f"{os.fspath(path)}: {error}") from None
    except Exception as error:  # whatever else a damaged or hostile file provokes, MemoryError and RecursionError too
        reason = f"{type(error).__name__}: {printable(error, 200)}"
        raise InputError(f"{os.fspath(path)}: {DAMAGED} ({reason})") from None


def _read(mapped: mmap.mmap, verify: bool) -> object:
    if mapped[:4] == b"PK\3\4":
        return read_archive(mapped, verify)
    if mapped[:1] == b"\x80":
        return read_legacy(mapped)
    if mapped[257:262] == b"ustar":
        raise InputError("this is the tar format of PyTorch before 0.1.10: load it with PyTorch and save it again")
    raise InputError("this is not a file that torch.save wrote: give a .pt, .pth or .ckpt file")


def save(path: str | os.PathLike[str], value: object) -> None:
    """Writes `value` to `path` as a file that `torch.load(path, weights_only=True)` reads, with mmap=True as well.

    `value` nests dict, OrderedDict, list, tuple, str, bytes, numbers, None and arrays; where an array may stand, a
    function that returns one may too: it is called when its turn comes, so that one tensor at a time is in memory. An
    array or function that occurs several times is stored once, and its tensors share that storage. The file appears
    only when it is complete.
    Raises InputError, naming the place, for a value of another type.
    """
    with replacing(path) as file:
        write_archive(file, value)
