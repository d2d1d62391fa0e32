"""Files that a program makes: looked at before its work begins, whole when they are there, over others only if asked.

A picture is of the format that its name ends in. A folder holds single pictures.
"""

import contextlib
import io
import os
import pathlib
import secrets
import shutil
import tarfile
import tempfile
from collections.abc import Collection, Generator, Iterable, Mapping
from typing import IO

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rqjax.errors import InputError, RunError
from rqjax.store.atomic import replacing

PICTURES: Mapping[str, tuple[str, Mapping[str, object]]] = {
    ".png": ("png", {}),
    ".jpg": ("jpeg", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("jpeg", {"quality": 95, "subsampling": 0}),
    ".webp": ("webp", {"lossless": True}),
}
"""Formats by ending, with their options in Pillow."""
SIDE = {"jpeg": 65_535, "webp": 16_383}
"""The longest side that a format can say, in pixels."""
ARRAYS = ".npz"
FOLDER = "/"
"""Stands for a folder among endings: a name without an ending, or with a slash behind it."""


def checked(name: str, endings: Collection[str], *, overwrite: bool = False, flag: str = "--out") -> pathlib.Path:
    """The place that a flag, or an argument of that name, says is about to be written. Nothing is made here.

    Raises InputError for another ending, for what is there already unless `overwrite`, and where nothing can be made.
    """
    path = pathlib.Path(name)
    folder = is_folder(name) and FOLDER in endings
    if not name.strip() or "://" in name or path.name in ("", ".."):
        raise InputError(f"{flag} is {name!r}: expected a file or folder of this machine")
    if not folder and (is_folder(name) or path.suffix.lower() not in endings):
        known = ", ".join("a folder" if ending == FOLDER else ending for ending in endings)
        raise InputError(f"{flag} is {name!r}: expected a name that ends in one of {known}")
    try:
        if folder:
            _check_folder(path, overwrite, flag)
        elif path.is_dir():
            raise InputError(f"{flag} {name} is a folder: name a file in it")
        elif os.path.lexists(path) and not overwrite:
            raise InputError(f"{flag} {name} exists already: choose another name, or pass {_ask(flag)}")
        _check_writable(path.absolute().parent)
    except OSError as error:
        raise InputError(f"{flag} {name} cannot be written ({error.strerror}): choose another place") from None
    return path


def _ask(flag: str) -> str:
    """The words that allow to write over what is there: of a command line, or of a call."""
    return "--overwrite" if flag.startswith("--") else "overwrite=True"


def is_folder(name: str) -> bool:
    """Whether a name means a folder: no ending, or a slash at its end."""
    return name.endswith("/") or not pathlib.Path(name).suffix


def _check_folder(path: pathlib.Path, overwrite: bool, flag: str) -> None:
    if not os.path.lexists(path):
        return
    if not path.is_dir():
        raise InputError(f"{flag} {path} is a file: choose another name, or one with an ending")
    inside = list(path.iterdir())
    if inside and not overwrite:
        raise InputError(f"{flag} {path} is not empty: choose another folder, or pass {_ask(flag)}")
    if foreign := [entry.name for entry in inside if entry.suffix not in PICTURES]:
        raise InputError(f"{flag} {path} holds more than pictures ({foreign[0]!a}): choose another folder")


def _check_writable(folder: pathlib.Path) -> None:
    """Raises OSError where no file can be made in `folder`, or no folder of that name in one that is there."""
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if there != folder and not there.is_dir():
        raise NotADirectoryError(20, "Not a directory")
    with tempfile.TemporaryFile(dir=there):  # has no name
        pass


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Generator[IO[bytes]]:
    """A file to write to that appears under its name, with the folders above it, when it is complete.

    Raises RunError if the disk does not take it.
    """
    with _telling(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            yield file


@contextlib.contextmanager
def _telling(path: pathlib.Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} could not be written ({error.strerror or error}): nothing of it is left") from error


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text in UTF-8."""
    with whole(path) as file:
        file.write(text.encode())


def write_arrays(path: pathlib.Path, **arrays: np.ndarray) -> None:
    """Writes arrays by name as .npz. `arr_0` is where ADM's evaluator looks for images."""
    with whole(path) as file:
        np.savez_compressed(file, **arrays)  # pyrefly: ignore  (any name may be an array's)


def write_tar(path: pathlib.Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Writes a tar of members in that order, which is the same whenever and by whomever it is written."""
    with whole(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def write_picture(path: pathlib.Path, picture: UInt8[np.ndarray, "h w 3"]) -> None:
    """Writes a picture in the format that its name ends in. Raises InputError if it is too large for that."""
    kind, options = PICTURES[path.suffix.lower()]
    if max(picture.shape[:2]) > SIDE.get(kind, 2**31):
        size = f"{picture.shape[1]}x{picture.shape[0]}"
        raise InputError(f"{path}: {kind} has no pictures of {size}: choose .png, or fewer images")
    with whole(path) as file:
        Image.fromarray(picture).save(file, kind, **options)


def write_folder(path: pathlib.Path, pictures: Mapping[str, UInt8[np.ndarray, "h w 3"]]) -> None:
    """Writes pictures by file name as a folder, which appears when it is complete, in the place of one of pictures."""
    partial, before = (path.with_name(f".{path.name}.{secrets.token_hex(4)}.{end}") for end in ("part", "old"))
    try:
        with _telling(path):
            partial.mkdir(parents=True)
            for name, picture in pictures.items():
                kind, options = PICTURES[pathlib.Path(name).suffix]
                Image.fromarray(picture).save(partial / name, kind, **options)
            if path.is_dir():
                os.rename(path, before)
            os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)
