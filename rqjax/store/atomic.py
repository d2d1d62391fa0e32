"""Files that appear only when they are complete."""

import contextlib
import os
import pathlib
import secrets
from collections.abc import Generator
from typing import IO

from rqjax.errors import InputError


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Generator[IO[bytes]]:
    """A new file beside `path` to write to, which takes its place at the end, or is removed if anything fails."""
    final = pathlib.Path(path)
    partial = final.with_name(f".{final.name}.{secrets.token_hex(4)}.part")
    try:
        file = open(partial, "xb")  # noqa: SIM115 (closed below: only its opening may raise InputError)
    except OSError as error:
        raise InputError(f"{final}: cannot be written ({error.strerror}): choose another place") from None
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, final)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
