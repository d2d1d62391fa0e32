"""Files that grow, for a run in a bucket: written on this machine, copied there whole from time to time."""

import pathlib
import tempfile
import time

from rqjax.store.remote import Path

SECONDS = 60
"""Time between two copies: a bucket takes whole files only, so each copy sends everything again."""


class Copies:
    """A folder of this machine whose files are copied to `target`; it starts with the files `kept` found there."""

    def __init__(self, target: Path, *kept: str):
        self._target = target
        self._place = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self._place.name)
        self._sizes: dict[pathlib.Path, int] = {}
        self._last = time.monotonic()
        for name in kept:
            if (target / name).is_file():
                (self.folder / name).write_bytes((target / name).read_bytes())

    def due(self) -> bool:
        """Whether the last copy is long enough ago."""
        return time.monotonic() - self._last >= SECONDS

    def write(self) -> None:
        """Copies the files that grew or shrank."""
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            content = path.read_bytes()
            if len(content) != self._sizes.get(path):
                (self._target / path.relative_to(self.folder).as_posix()).write_bytes(content)
                self._sizes[path] = len(content)
        self._last = time.monotonic()

    def close(self) -> None:
        """Copies a last time and removes the folder."""
        if self.folder.exists():
            self.write()
            self._place.cleanup()
