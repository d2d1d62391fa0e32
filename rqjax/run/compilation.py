"""Compiled programs are kept on disk: the second start of a program need not compile again."""

import contextlib
import hashlib
import os
import pathlib
import platform
import sys
import tempfile
import warnings

import jax

from rqjax.errors import InputError
from rqjax.store.cache import cache_folder
from rqjax.store.remote import in_bucket, to_path

VARIABLE = "RQJAX_COMPILATION_CACHE"
OFF = "off"
LIMIT = 2 * 2**30
"""Bytes of the user's own folder: what was used longest ago leaves."""
CACHE = "-cache"
"""The end of the names of JAX's files; beside some is one that ends in -atime."""


def keep(asked: str | None) -> None:
    """Makes JAX keep its programs where `asked`, the environment or a default says; to be called before it compiles.

    JAX_COMPILATION_CACHE_DIR stays in force. Raises InputError if a place that was asked for cannot be; without the
    default one a line says so, and the work goes on.
    """
    place = asked if asked is not None else os.environ.get(VARIABLE)
    if place == OFF:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if place is None and jax.config.jax_compilation_cache_dir:  # pyrefly: ignore[missing-attribute]
        return
    try:
        folder = _opened(place) if place else _opened(str(_default()))
        if not place:
            _prune(pathlib.Path(folder), LIMIT)
    except OSError as error:
        reason = error.strerror or error
        if place:
            raise InputError(f"no compilation cache can be in {place} ({reason}): choose another, or `{OFF}`") from None
        print(f"rqjax: compiled programs are not kept ({reason}): set {VARIABLE}", file=sys.stderr)
        return
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")  # a disk that is full now
    jax.config.update("jax_compilation_cache_dir", folder)
    # a sampler is many small programs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def _opened(place: str) -> str:
    """The place, which is made, and written to once."""
    path = to_path(place)
    if in_bucket(path):
        return os.fspath(path)
    folder = pathlib.Path(path).expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"room?")
    return str(folder)


def _default() -> pathlib.Path:
    """A folder of the user's for this kind of machine: XLA compiles for the processor that it runs on."""
    return cache_folder("xla") / _processor()


def _processor() -> str:
    """Short for the processor's instructions; machines that share a home folder may differ in them."""
    features = platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        features += next((line for line in file if line.startswith(("flags", "Features"))), "")
    return hashlib.blake2b(features.encode(), digest_size=4).hexdigest()


def _prune(folder: pathlib.Path, limit: int) -> None:
    """Takes the files away that were used longest ago, until those left have `limit` bytes at most."""
    used = []
    for path in folder.glob(f"*{CACHE}"):
        with contextlib.suppress(OSError):  # another process takes it away too
            found = path.stat()
            used.append((max(found.st_atime, found.st_mtime), found.st_size, path))
    total = 0
    for _, size, path in sorted(used, reverse=True):
        total += size
        if total > limit:
            with contextlib.suppress(OSError):
                path.unlink()
