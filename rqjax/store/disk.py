"""Disks that are full or fail: which errors say so, and in what words."""

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
"""Errors that only a write meets: what happened, and the remedy."""
LOST = dict.fromkeys(
    (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN), ("the disk fails", "look at the disk")
)
GONE = dict.fromkeys((errno.ENOENT, errno.EACCES, errno.EPERM), ("the folder is gone or closed", "bring it back"))
STORAGE = r"^(RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAVAILABLE|UNAUTHENTICATED|DATA_LOSS|NOT_FOUND|ABORTED): "
"""How tensorstore begins when a disk or bucket refuses."""


def chain(error: BaseException) -> Iterator[BaseException]:
    """`error`, and those that it came from or was raised in the handling of."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def reason(error: BaseException, *, writing: bool) -> tuple[str, str] | None:
    """What `error` says of the disk, and the remedy; None if it says nothing.

    With `writing` it comes from a write, so that a missing or closed folder, or a bucket's refusal, counts as well.
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
    """Its error numbers: the system's own, and those that tensorstore writes into its sentences."""
    own = [error.errno] if isinstance(error, OSError) and error.errno else []
    return own + [int(number) for number in re.findall(r"os_error_code='(\d+)'", str(error))]
