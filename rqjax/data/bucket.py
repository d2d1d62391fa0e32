"""A prepared set in a bucket, copied to this machine once: single records are far away there, whole files are not.

A record of a batch lies anywhere in the set, and a bucket takes tens of milliseconds to begin an answer, so that a step
would wait; a file that is read from end to end waits once. benchmarks/bucket.py measures both against a stand-in.
"""

import concurrent.futures
import fcntl
import hashlib
import os
import pathlib
import shutil
import time
from collections.abc import Iterator

from rqjax.data.records import MANIFEST, MANIFEST_BYTES, Manifest, Shard
from rqjax.errors import InputError, RunError, in_words, printable
from rqjax.store.cache import cache_folder
from rqjax.store.remote import BUCKET, Path, replace_file, to_path

AT_ONCE = 8
"""Files that are copied side by side."""
_CHUNK = 2**22


def at_hand(path: str, cache: str = "") -> str:
    """`path`, or of a prepared set in a bucket (gs://BUCKET/SET) the folder of its copy on this machine.

    The copy is made in `cache`, or in the user's cache folder, unless it is there already. Each file is compared with
    the manifest's checksum on its way and gets its name when it is whole, so that a start after a kill copies what is
    missing. Processes of one machine take turns. Raises InputError for a place without a prepared set, or a disk
    without room; RunError if the bucket fails, or has other files than the manifest says.
    """
    if not path.startswith(BUCKET):
        return path
    there = to_path(path)
    content = _manifest(there)
    manifest = Manifest.parsed(content, f"{path}/{MANIFEST}")
    folder = pathlib.Path(cache).expanduser() if cache else cache_folder("data")
    here = folder / hashlib.sha256(content).hexdigest()[:16]
    try:
        here.mkdir(parents=True, exist_ok=True)
        with (here / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            missing = [shard for shard in manifest.files if _size(here / shard.file) != shard.bytes]
            if missing:
                _copy(there, here, missing)
            if not (here / MANIFEST).is_file():
                replace_file(here / MANIFEST, content)  # last of all: with it, the set is complete
    except OSError as error:
        raise RunError(
            f"{path} could not be copied to {here} ({error.strerror or error}): what is whole stays, and the same"
            " command goes on"
        ) from error
    return str(here)


def _size(path: pathlib.Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _manifest(there: Path) -> bytes:
    path = there / MANIFEST
    try:
        with path.open("rb") as file:
            return file.read(MANIFEST_BYTES)
    except FileNotFoundError:
        raise InputError(
            f"data.path {os.fspath(there)} holds no {MANIFEST}: expected a set of launch/prepare.py or of rqjax encode;"
            " make it here and copy its folder there"
        ) from None
    except Exception as error:  # each way to a bucket has errors of its own
        raise RunError(
            f"{os.fspath(path)} cannot be read ({printable(in_words(error), 200)}): look at the bucket and the rights"
        ) from error


def _copy(there: Path, here: pathlib.Path, shards: list[Shard]) -> None:
    needed, free = sum(shard.bytes for shard in shards), shutil.disk_usage(here).free
    if needed > free:
        raise InputError(
            f"{os.fspath(there)} needs {needed / 2**30:.2f} GiB in {here}, and the disk has {free / 2**30:.2f} left:"
            " name a folder of a larger one with --config.data.cache, or mount the bucket and give the mounted folder"
        )
    print(f"data: copying {len(shards)} files of {os.fspath(there)}, {needed / 2**30:.2f} GiB, to {here}", flush=True)
    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            list(pool.map(lambda shard: _copy_one(there / shard.file, here / shard.file, shard), shards))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    print(f"data: copied in {time.monotonic() - begin:.1f} s", flush=True)


def _copy_one(source: Path, target: pathlib.Path, shard: Shard) -> None:
    found, partial = hashlib.sha256(), target.with_name(f".{target.name}.part")
    with partial.open("wb") as copy:
        for part in _parts(source):
            found.update(part)
            copy.write(part)
        copy.flush()
        os.fsync(copy.fileno())
    if found.hexdigest() != shard.sha256:
        partial.unlink()
        raise RunError(
            f"{os.fspath(source)} is not the file that {MANIFEST} tells of (SHA-256): copy the set there again"
        )
    partial.replace(target)


def _parts(source: Path) -> Iterator[bytes]:
    try:
        with source.open("rb") as file:
            while part := file.read(_CHUNK):
                yield part
    except Exception as error:  # each way to a bucket has errors of its own
        reason = printable(in_words(error), 200)
        raise RunError(
            f"{os.fspath(source)} cannot be read ({reason}): what is whole stays, and the same command goes on"
        ) from error
