"""A run directory to be read: its newest checkpoint, or the model that it is by itself."""

import dataclasses
import json
import os
from typing import TypeVar

import jax
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rqjax import mesh
from rqjax.errors import InputError
from rqjax.store.arrays import Place, Places, check_fit, from_arrays, same_names, stored_shapes, to_arrays
from rqjax.store.model_folder import ModelFolder, holds_model
from rqjax.store.remote import Path, in_bucket, to_path

FOLDER = "checkpoints"
UNREADABLE = (ValueError, KeyError, OSError, TypeError, RuntimeError)
"""Exceptions of orbax, tensorstore and json for files that are truncated, damaged or gone."""
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint, whose items are the fields of a training state ("model", "ema", ...)."""

    folder: Path

    @property
    def step(self) -> int:
        """Finished steps."""
        return int(self.folder.name)

    def config(self) -> dict[str, object]:
        """The configuration, as JSON. Raises InputError if it is damaged."""
        path = self.folder / "config" / "metadata"
        try:
            return json.loads(path.read_text())
        except UNREADABLE as error:
            raise _damaged(path, error) from error

    def has(self, name: str) -> bool:
        """Whether the item `name` was saved, which it is unless it is empty."""
        return (self.folder / name).is_dir()

    def item(self, name: str, like: T, places: Places = same_names) -> T:
        """An item in the structure of `like` (shapes), each array where its shape says, or whole on every device of the
        mesh in force. Raises InputError if it is damaged, or does not fit.
        """
        path = self.folder / name
        wanted = to_arrays({name: _placed(like)})
        with ocp.StandardCheckpointer() as door:
            try:
                metadata = door.metadata(path).item_metadata
                if metadata is None:
                    raise ValueError("its metadata are missing or damaged")
                taken = places(wanted, metadata.tree)
                shapes = stored_shapes(wanted, taken)
                check_fit(shapes, metadata.tree, f"the checkpoint {path}")
                stored = door.restore(path, shapes)
            except InputError:
                raise
            except UNREADABLE as error:
                raise _damaged(path, error) from error
        arrays = {key: _take(stored[place.name], place, wanted[key]) for key, place in taken.items()}
        return from_arrays({name: like}, arrays)[name]


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
    if saved := steps(workdir):
        return Checkpoint(checkpoints_of(workdir) / str(saved[-1]))
    return ModelFolder(to_path(workdir)) if holds_model(workdir) else None


def _placed(like: T) -> T:
    """Shapes with a sharding each; those that have none are put whole on every device of the mesh in force."""
    devices = jax.sharding.get_mesh()
    whole = NamedSharding(mesh.make_mesh() if devices.empty else devices, P())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or whole), like)


def _take(stored: jax.Array, place: Place, like: jax.ShapeDtypeStruct) -> jax.Array:
    """The part of a stored array that lies at a place; a compiled program, as other hosts hold parts of it too."""
    if place.row is None:
        return stored
    return jax.jit(lambda x: x[place.row], out_shardings=like.sharding)(stored)


def _damaged(path: Path, error: Exception) -> InputError:
    reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
    return InputError(f"cannot read {path} ({reason}): delete {path.parent} to go on from the checkpoint before it")
