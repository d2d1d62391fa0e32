"""A run directory to be read: its newest checkpoint, or the model that it is by itself."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Generator
from typing import TypeVar

import jax
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rqjax import mesh
from rqjax.errors import InputError
from rqjax.store import disk, measures
from rqjax.store.arrays import Place, Places, Shapes, check_fit, from_arrays, same_names, stored_shapes, to_arrays
from rqjax.store.digests import Digests, text_digest
from rqjax.store.model_folder import ModelFolder, holds_model
from rqjax.store.remote import Path, in_bucket, to_path

FOLDER = "checkpoints"
UNREADABLE = (ValueError, KeyError, OSError, TypeError, RuntimeError)
"""Exceptions of orbax, tensorstore and json for files that are truncated, damaged or gone."""
ATTEMPTS = 10
"""Checkpoints that are tried one after the other, where a trainer beside deletes each before it is read."""
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint, whose items are the fields of a training state ("model", "ema", ...)."""

    folder: Path
    entries: frozenset[str]
    """The names in the folder. A trainer that deletes it later begins anywhere in it, so some may be gone."""

    @classmethod
    def opened(cls, folder: Path) -> "Checkpoint":
        """The checkpoint in a folder, as it is now."""
        return cls(folder, _entries(folder))

    @property
    def step(self) -> int:
        """Finished steps."""
        return int(self.folder.name)

    def config(self) -> dict[str, object]:
        """The configuration, as JSON. Raises InputError if it is damaged."""
        path = self.folder / "config" / "metadata"
        with self._reading(path):
            config, digests = json.loads(path.read_text()), Digests.read(self.folder)
            if digests and digests.config != text_digest(config):
                raise ValueError("it is not as it was saved")
            self._check_there()
        return config

    def has(self, name: str) -> bool:
        """Whether the item `name` was saved, which it is unless it is empty."""
        return name in self.entries

    def item(self, name: str, like: T, places: Places = same_names) -> T:
        """An item in the structure of `like` (shapes), each array where its shape says, or whole on every device of the
        mesh in force. Raises InputError if it is damaged, or does not fit.
        """
        wanted = to_arrays({name: _placed(like)})
        path = self.folder / name
        with self._reading(path):
            taken, stored = self._restored(path, wanted, places)
            self._check_there()
        arrays = {key: _take(stored[place.name], place, wanted[key]) for key, place in taken.items()}
        return from_arrays({name: like}, arrays)[name]

    def _restored(self, path: Path, wanted: Shapes, places: Places) -> tuple[dict[str, Place], dict[str, jax.Array]]:
        """Where the arrays that are wanted lie, and all that lie there, as they were saved."""
        measures.leave_out()
        with ocp.StandardCheckpointer() as door:
            metadata = door.metadata(path).item_metadata
            if metadata is None:
                raise ValueError("its metadata are missing or damaged")
            taken = places(wanted, metadata.tree)
            shapes = stored_shapes(wanted, taken)
            check_fit(shapes, metadata.tree, f"the checkpoint {path}")
            kinds = {key: metadata.tree[key].dtype for key in shapes}
            own = {key: jax.ShapeDtypeStruct(x.shape, kinds[key], sharding=x.sharding) for key, x in shapes.items()}
            arrays = door.restore(path, own)
        if digests := Digests.read(self.folder):
            digests.check(arrays)
        return taken, arrays

    def _check_there(self) -> None:
        """Raises ValueError if any of it went while it was read: with its digests, damage would pass unseen."""
        if _entries(self.folder) != self.entries:
            raise ValueError("it was deleted meanwhile")

    @contextlib.contextmanager
    def _reading(self, path: Path) -> Generator[None]:
        """Turns whatever orbax, tensorstore and json raise for damaged files into an InputError with the remedy."""
        try:
            yield
        except (InputError, jax.errors.JaxRuntimeError, MemoryError):  # it does not fit, or there is no room for it
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
            remedy = f"delete {self.folder} to go on from the checkpoint before it"
            if (fault := disk.reason(error, writing=False)) is not None:
                reason, remedy = fault[0], f"{fault[1]} and try again"
            raise InputError(f"cannot read {path} ({reason}): {remedy}") from error


Stored = Checkpoint | ModelFolder
"""A model and its configuration on disk, with other items of a training state if there are any."""


def steps(workdir: str | os.PathLike[str]) -> list[int]:
    """The steps of all whole checkpoints in a run directory, in order."""
    folder = checkpoints_of(workdir)
    saved = ocp.path.step.standard_name_format().find_all(folder) if folder.is_dir() else ()
    return sorted(step.step for step in saved)


def checkpoints_of(workdir: str | os.PathLike[str]) -> Path:
    """The folder of a run directory's checkpoints."""
    path = to_path(workdir)
    # the names in a bucket are absolute, and epath takes them for relative ones
    return (path if in_bucket(path) else path.absolute()) / FOLDER


def find(workdir: str | os.PathLike[str]) -> Stored | None:
    """The newest checkpoint of a run directory, else the model that it is by itself, else None."""
    saved = steps(workdir)
    while saved:
        last = saved[-1]
        found = Checkpoint.opened(checkpoints_of(workdir) / str(last))
        saved = steps(workdir)
        if saved[-1:] == [last]:  # so it was whole: a trainer deletes it only when there is a newer one
            return found
    return ModelFolder(to_path(workdir)) if holds_model(workdir) else None


def newest(workdir: str | os.PathLike[str], found: Stored, read: Callable[[Stored], T]) -> tuple[Stored, T]:
    """The result of `read`, and of what: `found` or, if a trainer deleted that meanwhile, the newest checkpoint.

    Raises InputError as `read` does if there is no newer one, or if there are always newer ones, ATTEMPTS times.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return found, read(found)
        except InputError:
            later = find(workdir)
            if later is None or later == found:
                raise
            found = later
    return found, read(found)


def _entries(folder: Path) -> frozenset[str]:
    return frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else frozenset()


def _placed(like: T) -> T:
    """Shapes with a sharding each; those that have none are put whole on every device of the mesh in force."""
    devices = jax.sharding.get_mesh()
    whole = NamedSharding(mesh.make_mesh() if devices.empty else devices, P())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or whole), like)


def _take(stored: jax.Array, place: Place, like: jax.ShapeDtypeStruct) -> jax.Array:
    """The part of a stored array that lies at a place, in the type that is asked for.

    A compiled program takes it, as other hosts hold parts of it too.
    """
    if place.row is None and stored.dtype == like.dtype:
        return stored
    rows = ... if place.row is None else place.row
    return jax.jit(lambda x: x[rows].astype(like.dtype), out_shardings=like.sharding)(stored)
