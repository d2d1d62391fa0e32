"""A folder that is a model: config.json, a .safetensors file per item, the licence. What a hub of models keeps."""

import contextlib
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Generator, Mapping
from typing import Any

import jax
import numpy as np

from rqjax.errors import InputError
from rqjax.store.arrays import check_fit, from_arrays, to_arrays
from rqjax.store.remote import in_bucket, on_disk, to_path
from rqjax.store.safetensor_file import load_safetensors, save_safetensors

CONFIG = "config.json"
LICENCE = "licence.txt"
MODEL = "model"


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
    """Whether a folder holds a model by itself."""
    return (to_path(folder) / f"{MODEL}.safetensors").is_file()


def save(folder: pathlib.Path, config: Mapping[str, Any], items: Mapping[str, Any], licence: str) -> None:
    """Writes a configuration (as JSON), trees of arrays by name, one array at a time, and a licence if there is one."""
    folder.mkdir(exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=1))
    for name, tree in items.items():
        save_safetensors(folder / f"{name}.safetensors", to_arrays(tree), {"library": "rqjax", "item": name})
    write_licence(folder, licence)


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The configuration of a folder, as JSON. Raises InputError if it is missing or damaged."""
    path = to_path(folder) / CONFIG
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): a model's folder needs it beside its tensors") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} holds a {type(found).__name__}: expected the configuration of a model")
    return found


def has_item(folder: str | os.PathLike[str], name: str) -> bool:
    """Whether a folder holds the arrays of `name`."""
    return (to_path(folder) / f"{name}.safetensors").is_file()


def restore_item(folder: str | os.PathLike[str], name: str, abstract: Any) -> Any:
    """The arrays of `name`, placed as `abstract` says, or on the first device. Raises InputError if they don't fit."""
    path = to_path(folder) / f"{name}.safetensors"
    expected = to_arrays(abstract)
    with on_disk(path) as file:
        stored, _ = load_safetensors(file)  # stays readable when the file is gone
    check_fit(expected, stored, str(path))
    placed = {
        key: jax.device_put(np.asarray(stored[key], like.dtype), getattr(like, "sharding", None))
        for key, like in expected.items()
    }
    return from_arrays(abstract, placed)


def read_licence(folder: str | os.PathLike[str]) -> str:
    """The licence recorded beside a model; empty if there is none."""
    path = to_path(folder) / LICENCE
    return path.read_text().strip() if path.is_file() else ""


def write_licence(folder: str | os.PathLike[str], licence: str) -> None:
    """Records a licence beside a model, if it is not empty."""
    if licence:
        (to_path(folder) / LICENCE).write_text(licence.strip() + "\n")


def copy_licence(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Records the licence of one model beside another that is made from it."""
    write_licence(target, read_licence(source))
