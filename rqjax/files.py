"""Files that somebody else has made, read whole: none that never ends, and none larger than what it should hold."""

import errno
import os
import stat
import time
from collections.abc import Callable
from typing import TypeVar

from rqjax.errors import RunError, in_words, printable

T = TypeVar("T")
PAUSES = (0.1, 1.0, 5.0)
"""Seconds between the attempts to read where a disk, a network or the memory fails."""
LASTING = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}
    | {errno.ENXIO, errno.ENODEV, errno.EINVAL}
)
"""Errors that belong to the file: it is gone, forbidden or none. All others may pass."""


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """The bytes of a regular file. Raises OSError if it cannot be read, ValueError if it is none or above `most`."""
    # a pipe would wait for somebody to write, unless it is opened so
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"it is {kind_of(status.st_mode)}, expected a regular file")
        if status.st_size > most:
            raise ValueError(f"it has {status.st_size} bytes, expected at most {most}")
        return file.read(status.st_size)


def kind_of(mode: int) -> str:
    """The kind of a file by the mode that os.stat tells, in words for messages."""
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFREG: "a file"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def patiently(read: Callable[[], T], name: str) -> T:
    """The result of `read`, which is tried again after pauses where an error of the machine may pass.

    Raises RunError if it does not. Errors that belong to the file are raised as they are.
    """
    for pause in PAUSES:
        try:
            return read()
        except (OSError, MemoryError) as error:
            if not _passing(error):
                raise
        time.sleep(pause)
    try:
        return read()
    except (OSError, MemoryError) as error:
        if not _passing(error):
            raise
        reason = printable(in_words(error), 200)
        raise RunError(
            f"{name} cannot be read, tried {len(PAUSES) + 1} times ({reason}): look at the disk, the"
            " network and the memory; the same command goes on from the last checkpoint"
        ) from error


def _passing(error: OSError | MemoryError) -> bool:
    # an OSError without a number is a decoder's: the bytes are wrong
    return isinstance(error, MemoryError) or (error.errno is not None and error.errno not in LASTING)
