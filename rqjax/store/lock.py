"""One process at a time in a run directory: a second one would delete the first's save under way, and mix their logs.

On a disk the system holds the lock (flock) and lets go of it when the process ends, however it ends. A bucket knows no
locks: there the file counts, which its process renews.
"""

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Generator

from rqjax.errors import InputError
from rqjax.store import disk
from rqjax.store.remote import Path, in_bucket

FILE = "lock"
BEAT = 30
"""Seconds between two renewals of a lock in a bucket."""
SILENCE = 5 * BEAT
"""Seconds without one, after which its process counts as dead."""
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""A disk's answers that mean that it knows no locks."""


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that holds a lock, its start, and the time at which it last said that it lives (seconds)."""

    host: str
    pid: int
    since: str
    seen: float

    @classmethod
    def me(cls) -> "Holder":
        now = datetime.datetime.now().astimezone()
        return cls(socket.gethostname(), os.getpid(), now.isoformat(sep=" ", timespec="seconds"), now.timestamp())

    @classmethod
    def read(cls, path: Path) -> "Holder | None":
        """The holder that a file names; None if there is no file, or no holder in it."""
        try:
            stored = json.loads(path.read_text())
            return cls(str(stored["host"]), int(stored["pid"]), str(stored["since"]), float(stored["seen"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self)) + "\n")

    @property
    def lives(self) -> bool:
        """Whether it may still work: one of this machine is looked up, others have been heard of lately."""
        if self.host == socket.gethostname():
            return self.pid != os.getpid() and _runs(self.pid)
        return time.time() - self.seen < SILENCE

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


def _runs(pid: int) -> bool:
    """Whether this machine has a process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    return True


@contextlib.contextmanager
def locked(folder: Path, name: str = FILE) -> Generator[None]:
    """The run directory `folder`, which is made if it is missing, as this process's own for as long as the block runs.

    Processes that share a folder have a lock each, by another `name`. Raises InputError, which names the holder, if
    another process has it, or if no folder can be there.
    """
    try:
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        holding = _by_system(pathlib.Path(folder) / name) if not in_bucket(folder) else None
        release = holding or _by_name(folder / name)
    except OSError as error:
        if disk.reason(error, writing=False):
            raise
        raise InputError(f"{folder} cannot be a run directory ({error.strerror}): choose another --workdir") from None
    try:
        yield
    finally:
        release.close()
        if new:
            with contextlib.suppress(OSError, ValueError):  # it holds a run, or belongs to a bucket
                folder.rmdir()


def _by_system(path: pathlib.Path) -> contextlib.ExitStack | None:
    """A lock of the system on a file that names its holder; None if the disk knows no locks."""
    while True:
        opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, opened)
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in NO_LOCKS:
                    return None
                if not isinstance(error, BlockingIOError):
                    raise
                raise _taken(path, Holder.read(path)) from None
            if not _is_at(opened, path):
                continue  # its last holder has just taken it away
            os.ftruncate(opened, 0)
            Holder.me().write(path)
            stack.callback(path.unlink, missing_ok=True)
            return stack.pop_all()


def _is_at(opened: int, path: pathlib.Path) -> bool:
    """Whether an open file is the one of that name."""
    try:
        return os.path.samestat(os.fstat(opened), os.stat(path))
    except FileNotFoundError:
        return False


def _by_name(path: Path) -> contextlib.ExitStack:
    """A file that names its holder, which renews it."""
    holder = Holder.read(path)
    if holder and holder.lives:
        raise _taken(path, holder, f" If it has ended, delete {path}, or wait {SILENCE} seconds.")
    me, over = Holder.me(), threading.Event()
    me.write(path)

    def renew() -> None:
        while not over.wait(BEAT):
            with contextlib.suppress(OSError):  # a bucket that fails will fail a save too, which says so
                dataclasses.replace(me, seen=time.time()).write(path)

    beat = threading.Thread(target=renew, name="lock", daemon=True)
    beat.start()
    stack = contextlib.ExitStack()
    stack.callback(path.unlink, missing_ok=True)
    stack.callback(beat.join)
    stack.callback(over.set)
    return stack


def _taken(path: Path, holder: Holder | None, remedy: str = "") -> InputError:
    who = holder or "another process"
    return InputError(f"{path.parent} is in use by {who}: wait for its end, or choose another --workdir.{remedy}")
