"""Disks that are full or fail: the errors that mean it, and one line for each."""

import errno
import os
import re
from collections.abc import Iterator

FULL = {
    errno.ENOSPC: ("the disk is full", "free space"),
    errno.EDQUOT: ("the quota of the disk is used up", "free space"),
    errno.EFBIG: ("a file would be larger than allowed", "raise the limit"),
    errno.EROFS: ("the disk is read-only", "make it writable"),
}
"""Errors that only a write meets: the fault, and its remedy."""
LOST = dict.fromkeys(
    (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN), ("the disk fails", "look at the disk")
)
GONE = dict.fromkeys(
    (errno.ENOENT, errno.EACCES, errno.EPERM), ("the folder is gone or closed", "mount it again or open it")
)
STORAGE = r"^(RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAVAILABLE|UNAUTHENTICATED|DATA_LOSS|NOT_FOUND|ABORTED): "
"""How tensorstore begins when a disk or bucket refuses."""


def chain(error: BaseException) -> Iterator[BaseException]:
    """`error`, and those that it came from or was raised in the handling of."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def reason(error: BaseException, *, writing: bool) -> tuple[str, str] | None:
    """The fault of the disk that caused `error`, and its remedy; None if the disk did not cause it.

    With `writing` the error comes from a write, so a missing or closed folder and a bucket's refusal count as well.
    """
    known = FULL | LOST | (GONE if writing else {})
    for one in chain(error):
        for number in _numbers(one):
            if number in known:
                happened, remedy = known[number]
                return f"{happened} ({os.strerror(number)})", remedy
        if writing and isinstance(one, ValueError) and re.match(STORAGE, str(one)):
            return f"the storage refuses ({str(one).splitlines()[0][:160]})", "look at it"
    return None


def _numbers(error: BaseException) -> list[int]:
    """The error numbers in it: the system's own, and those that tensorstore writes into its sentences."""
    own = [error.errno] if isinstance(error, OSError) and error.errno else []
    return own + [int(number) for number in re.findall(r"os_error_code='(\d+)'", str(error))]
