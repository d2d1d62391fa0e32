"""A stand-in for gcsfs, which keeps gs://BUCKET/NAME in a folder here."""

import contextlib
import pathlib
from collections.abc import Generator

from etils.epath import backend
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry


@contextlib.contextmanager
def bucket_in(root: pathlib.Path, monkeypatch) -> Generator[tuple[type, list[tuple[str, str]]]]:
    """The class of the stand-in, with what was opened so far: (mode, name)."""
    opened: list[tuple[str, str]] = []

    class Store(LocalFileSystem):
        protocol = ("gcs", "gs")
        cachable = False

        def __init__(self, **options):
            super().__init__(auto_mkdir=True, **options)

        @classmethod
        def _strip_protocol(cls, path):
            name = str(path).removeprefix("gs://")
            return name.rstrip("/") if name.startswith("/") else str(root / name)

        def glob(self, path, **options):
            return [str(pathlib.Path(name).relative_to(root)) for name in super().glob(path, **options)]

        def mkdir(self, path, create_parents=True, **options):
            """A bucket has no folders but those that names make."""

        def makedirs(self, path, exist_ok=False):
            if not path.startswith("gs://"):
                super().makedirs(path, exist_ok)

        def _open(self, path, mode="rb", **options):
            if "a" in mode or "+" in mode:
                raise NotImplementedError("an object cannot be added to")
            opened.append((mode[0], pathlib.Path(path).name))
            return super()._open(path, mode, **options)

    for name in Store.protocol:
        monkeypatch.setitem(_registry, name, Store)
    cache = type(backend.fsspec_backend)._get_filesystem
    cache.cache_clear()
    yield Store, opened
    cache.cache_clear()
