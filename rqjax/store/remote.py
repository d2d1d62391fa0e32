"""Places that a run's files may be: a folder of this machine, or of a bucket, as in gs://BUCKET/RUN."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Generator

import fsspec
from etils import epath

from rqjax.errors import InputError

BUCKET = "gs://"
Path = pathlib.Path | epath.Path
"""A file or folder of this machine, or one in a bucket: both are used alike."""


def to_path(name: str | os.PathLike[str]) -> Path:
    """The file or folder of that name, here or, if it begins with gs://, in a bucket.

    Raises InputError for other addresses, and where nothing is installed that reaches a bucket.
    """
    text = os.fspath(name)
    if "://" not in text:
        return pathlib.Path(text)
    if not text.startswith(BUCKET) or not text.removeprefix(BUCKET).strip("/"):
        raise InputError(f"{text} is no place for files: expected a local folder or gs://BUCKET/FOLDER")
    try:
        fsspec.get_filesystem_class("gcs")
    except ImportError:
        raise InputError(f"{text} is in a bucket, and gcsfs is not installed: install rqjax[tpu]") from None
    return epath.Path(text)


def in_bucket(path: Path) -> bool:
    """Whether a path is in a bucket, where files are written whole and nothing can be added to them."""
    return isinstance(path, epath.Path) and os.fspath(path).startswith(BUCKET)


def replace_file(path: Path, content: str | bytes) -> None:
    """Writes a small file of a run whole, in the place of an earlier one."""
    fresh = path.with_name(f".{path.name}.tmp")
    fresh.write_bytes(content.encode() if isinstance(content, str) else content)
    fresh.replace(path)


@contextlib.contextmanager
def on_disk(path: Path) -> Generator[pathlib.Path]:
    """A file as one of this machine: itself, or a copy of one in a bucket for as long as the block runs."""
    if not in_bucket(path):
        yield pathlib.Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / path.name
        copy.write_bytes(path.read_bytes())
        yield copy
