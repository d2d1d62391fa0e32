"""The data set that a run was begun with, as it is kept in the run's directory: how many images, and which classes."""

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

from rqjax.data.sources import Source
from rqjax.errors import InputError
from rqjax.store.remote import Path, replace_file, to_path

FILE = "data.json"
CLASSES = "classes.json"
"""The file for names of classes alone, of a model that was trained elsewhere: in a model's folder, or a copy."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The number of images of a split, and the names of its classes by label."""

    images: int
    classes: tuple[str, ...]

    @classmethod
    def of(cls, source: Source) -> "Dataset":
        return cls(len(source), tuple(source.classes))

    @classmethod
    def read(cls, workdir: str | os.PathLike[str]) -> "Dataset | None":
        """That of a run directory; None for runs of versions that did not keep it. Raises InputError if damaged."""
        path = to_path(workdir) / FILE
        if not path.is_file():
            return None
        try:
            stored: Any = json.loads(path.read_text())
            return cls(int(stored["images"]), tuple(map(str, stored["classes"])))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged ({error}): delete it to go on with the data as they are") from error

    def write(self, workdir: Path) -> None:
        replace_file(workdir / FILE, json.dumps(dataclasses.asdict(self), indent=1))

    def check_same(self, workdir: Path, now: "Dataset") -> None:
        """Raises InputError if a run that was begun with this data set would go on with another."""
        if now.images != self.images:
            raise InputError(
                f"{workdir} was begun with {self.images:,} images and the data has {now.images:,}: its steps would see"
                " others; give it the same ones, or choose another --workdir"
            )
        if now.classes != self.classes:
            raise InputError(
                f"{workdir} was begun with the classes {few(self.classes)} and the data has {few(now.classes)}:"
                " labels would mean others; give it the same ones, or choose another --workdir"
            )

    def __str__(self) -> str:
        kinds = f" of {len(self.classes)} classes: {few(self.classes)}" if len(self.classes) > 1 else ""
        return f"{self.images:,} images{kinds}"


def few(names: Sequence[str]) -> str:
    """The first names, and how many there are if these are not all."""
    return ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")


def class_names(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """The names of the classes that a run directory or a model's folder keeps, by label; none if it keeps none."""
    if dataset := Dataset.read(folder):
        return dataset.classes
    path = to_path(folder) / CLASSES
    try:
        names: Any = json.loads(path.read_text()) if path.is_file() else []
        return tuple(map(str, names))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path} is damaged ({error}): expected a list of names; delete it to go by numbers"
        ) from error


def write_class_names(folder: str | os.PathLike[str], names: Sequence[str]) -> None:
    """Keeps the names of a model's classes beside it, if there are any."""
    if names:
        (to_path(folder) / CLASSES).write_text(json.dumps(list(names), ensure_ascii=False))
