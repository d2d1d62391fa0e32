"""Published weights: files that people download, known by their checksums."""

import hashlib
import pathlib

import numpy as np

from rqjax.errors import InputError
from rqjax.torchfile import file
from rqjax.torchfile.table import StateDict


def check_there(name: str, path: str, remedy: str) -> None:
    """Raises InputError if there is no such file: the setting `name` has that path, `remedy` says where to get it."""
    if not pathlib.Path(path).is_file():
        raise InputError(f"{name}={path!r} is not a file: {remedy}")


def read(path: str, sha256: str, remedy: str, *, verify: bool = True) -> StateDict:
    """The state dict of a published file, whose SHA-256 begins with `sha256`; `verify=False` takes any.

    Raises InputError if it is another file, or holds no state dict; `remedy` says where to get it.
    """
    if verify:
        with open(path, "rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if not found.startswith(sha256):
            raise InputError(f"{path} has SHA-256 {found[:8]}..., expected {sha256}...: {remedy}")
    contents = file.load(path)
    tensors = contents if isinstance(contents, dict) else {}
    if not tensors or not all(isinstance(key, str) and isinstance(tensors[key], np.ndarray) for key in tensors):
        raise InputError(f"{path} is not a state dict: expected a dictionary of tensors by name")
    return tensors
