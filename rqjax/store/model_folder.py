"""The portable form of a model: a folder with config.json, a .safetensors file for each item, and licence.txt.

It is ready to upload to a model hub; nothing here uses the network.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Generator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from rqjax.errors import InputError, printable
from rqjax.files import read_regular
from rqjax.store.arrays import Places, check_fit, from_arrays, same_names, stored_shapes, to_arrays
from rqjax.store.digests import text_digest
from rqjax.store.remote import Path, in_bucket, on_disk, to_path
from rqjax.store.safetensor_file import check_sums, load_safetensors, save_safetensors

CONFIG = "config.json"
SUM = "crc32"
"""The field of an exported config.json that tells whether it is as it was written."""
LICENCE = "licence.txt"
MODEL = "model"
TEXT_BYTES = 2**20
"""The longest configuration or licence."""
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """A folder in that form, to be read; its items are fields of a training state, "model" at least."""

    folder: Path
    step: int = 0

    def config(self) -> dict[str, object]:
        """The configuration, as JSON. Raises InputError if it is missing or damaged."""
        path = self.folder / CONFIG
        try:
            stored = json.loads(_text(path))
        except (OSError, ValueError, RecursionError) as error:
            reason = printable(error, 200)
            raise InputError(
                f"{path} cannot be read ({reason}): a model's folder needs it beside its tensors"
            ) from None
        if not isinstance(stored, dict):
            raise InputError(f"{path} holds a {type(stored).__name__}: expected the configuration of a model")
        return unsealed(path, stored)

    def has(self, name: str) -> bool:
        """Whether there are arrays of the item `name`."""
        return (self.folder / f"{name}.safetensors").is_file()

    def item(self, name: str, like: T, places: Places = same_names) -> T:
        """The arrays of an item in the structure of `like` (shapes), each where its shape says, or on the first device.

        Raises InputError if they don't fit.
        """
        path = self.folder / f"{name}.safetensors"
        wanted = to_arrays(like)
        with on_disk(path) as file:
            stored, metadata = load_safetensors(file)  # stays readable when the file is gone
        taken = places(wanted, stored)
        check_fit(stored_shapes(wanted, taken), stored, str(path))
        check_sums(path, stored, metadata, dict.fromkeys(place.name for place in taken.values()))
        arrays = {}
        for key, place in taken.items():
            array = stored[place.name] if place.row is None else stored[place.name][place.row]
            arrays[key] = jax.device_put(np.asarray(array, wanted[key].dtype), wanted[key].sharding)
        return from_arrays(like, arrays)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Generator[pathlib.Path]:
    """An empty folder beside `path` to fill, which takes that name at the end, or is removed if anything fails.

    Raises InputError if there is something at `path` already, or nothing can be written there.
    """
    final = to_path(path)
    if in_bucket(final):
        raise InputError(f"{path} is in a bucket: write to a local folder, and copy that one there")
    final = pathlib.Path(final).absolute()
    if final.exists() or final.is_symlink():
        raise InputError(f"{path} exists already: choose another place, or remove it")
    partial = final.with_name(f".{final.name}.{secrets.token_hex(4)}.part")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}): choose another place") from None
    try:
        yield partial
        os.rename(partial, final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def holds_model(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a model in this form."""
    return (to_path(folder) / f"{MODEL}.safetensors").is_file()


def save(folder: pathlib.Path, config: Mapping[str, object], items: Mapping[str, object], licence: str) -> None:
    """Writes a configuration (as JSON), trees of arrays by name, one array at a time, and a licence if there is one."""
    folder.mkdir(exist_ok=True)
    (folder / CONFIG).write_text(json.dumps({**config, SUM: _sum(config)}, indent=1))
    for name, tree in items.items():
        metadata = {"library": "rqjax", "item": name}
        save_safetensors(folder / f"{name}.safetensors", to_arrays(tree), metadata, checksums=True)
    write_licence(folder, licence)


def unsealed(path: Path, config: Any) -> Any:
    """The JSON of a configuration's file without its checksum, if it has one. Raises InputError if they disagree."""
    if not isinstance(config, dict):
        return config
    fields = {name: value for name, value in config.items() if name != SUM}
    if config.get(SUM, _sum(fields)) != _sum(fields):
        raise InputError(
            f"{path} is not as it was written (its field {SUM} is {config[SUM]!r}, expected {_sum(fields)!r}): fetch it"
            " again, or take that field out if the change is meant"
        )
    return fields


def _sum(config: Mapping[str, object]) -> str:
    return f"{text_digest(config):08x}"


def read_licence(folder: str | os.PathLike[str]) -> str:
    """The licence recorded beside a model; empty if there is none."""
    path = to_path(folder) / LICENCE
    try:
        return _text(path).strip() if path.is_file() else ""
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({printable(error, 200)}): write the licence as text into it"
        ) from None


def _text(path: Path) -> str:
    """The text of a small file, which is foreign where it is on this machine's disks: it may be anything."""
    return path.read_text() if in_bucket(path) else read_regular(path, TEXT_BYTES).decode()


def write_licence(folder: str | os.PathLike[str], licence: str) -> None:
    """Records a licence beside a model, if it is not empty."""
    if licence:
        (to_path(folder) / LICENCE).write_text(licence.strip() + "\n")
