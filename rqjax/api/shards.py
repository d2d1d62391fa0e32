"""Many images as a folder of shards (.npz or .tar), which the same request goes on with after an end half-way.

An .npz has `arr_0`, where ADM's evaluator looks for images, and `label`; a .tar, as WebDataset reads it, a PNG file of
each image and, where there are classes, the number of its class beside it (.cls). Places go through the classes in
turn, so that every shard has as many of each as it can; an image is a function of the seed and its place, so that what
a second start draws is what the first would have drawn. The file request.json says what was asked for.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Int
from PIL import Image

from rqjax.api.classifier import LoadedClassifier
from rqjax.api.pictures import Pictures
from rqjax.api.prior import LoadedPrior
from rqjax.api.rejection import Scorer
from rqjax.api.request import Request
from rqjax.checks import one_of
from rqjax.data.images import encoded
from rqjax.errors import InputError, some_of
from rqjax.run.directory import Run
from rqjax.store import outputs
from rqjax.store.lock import FILE as LOCK
from rqjax.store.lock import locked
from rqjax.store.remote import in_bucket

REQUEST = "request.json"
IMAGES = 1024
"""Images of a shard."""
KINDS = ("npz", "tar")


@dataclasses.dataclass(frozen=True)
class Shards:
    """A folder for the shards of one request."""

    folder: pathlib.Path
    about: Mapping[str, Any]  # the request in words, to compare
    anew: bool  # shards that are there are no part of it, or not wanted
    kind: str = "npz"  # of KINDS

    @classmethod
    def checked(
        cls,
        name: str,
        prior: LoadedPrior,
        request: Request,
        *,
        overwrite: bool,
        flag: str = "--out",
        kind: str = "npz",
    ) -> "Shards":
        """The folder `name` for the images of a request, in shards of one of KINDS. Nothing is written.

        Raises InputError for a folder with other things, or with shards of another request unless `overwrite`.
        """
        one_of(KINDS, shards=kind)
        about, folder = _about(prior, request), pathlib.Path(name)
        about |= {} if kind == "npz" else {"shards": kind}  # earlier versions knew no other
        path = folder / REQUEST
        if not path.is_file():
            if not folder.is_dir() or any(not entry.name.startswith(LOCK) for entry in folder.iterdir()):
                outputs.checked(name, (outputs.FOLDER,), overwrite=overwrite, flag=flag)
            return cls(folder, about, True, kind)
        try:
            before = json.loads(path.read_text())
            names = [key for key in {**about, **before} if before.get(key) != about.get(key)]
            changed = [f"{key} is {about.get(key)} and was {before.get(key)}" for key in names]
        except (ValueError, AttributeError, TypeError):
            changed = [f"{REQUEST} is damaged"]
        if changed and not overwrite:
            raise InputError(
                f"{flag} {name} has images of another request ({some_of(changed)}): choose another folder, or pass"
                " --overwrite"
            )
        return cls(folder, about, overwrite, kind)

    def draw(
        self, prior: LoadedPrior, request: Request, say: Callable[[str], None], share: tuple[int, int] = (0, 1)
    ) -> None:
        """Draws the shards that are not there, and says a line for each.

        `share` is the number of this process and how many there are. Process i of n draws the shards i, i + n, ..., in
        a folder that they share or in one of its own. Raises InputError if another process draws the same ones there.
        """
        parts, (own, processes) = _parts(request), share
        with locked(self.folder, LOCK if processes == 1 else f"{LOCK}_{own}_of_{processes}"):
            if self.anew:
                for path in [path for kind in KINDS for path in self.folder.glob(f"shard_*.{kind}")]:
                    if _number(path) % processes == own:
                        path.unlink()
                outputs.write_text(self.folder / REQUEST, json.dumps(self.about, indent=1))
            done = 0
            for number, part in enumerate(parts):
                path, first, done = self.folder / f"shard_{number:05}.{self.kind}", done, done + len(part.values)
                if number % processes == own and not path.is_file():
                    self._write(path, prior.draw(part), first)
                    drawn = "" if part.rejection is None else f", the best of {part.first + len(part.candidates)} drawn"
                    say(f"{path}: {done} of {len(request.values)} images{drawn}")

    def parts(self) -> Iterator[dict[str, np.ndarray]]:
        """The arrays `arr_0` and `label` of each .npz, in order. Raises InputError for one that cannot be read."""
        for path in sorted(self.folder.glob("shard_*.npz")):
            try:
                with np.load(path) as data:
                    yield dict(data)
            except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
                raise InputError(f"{path} is damaged: remove it, and the same command draws it again") from None

    def _write(self, path: pathlib.Path, pictures: Pictures, first: int) -> None:
        if self.kind == "tar":
            outputs.write_tar(path, _members(pictures, first))
            return
        labels = {} if pictures.labels is None else {"label": pictures.labels}
        outputs.write_arrays(path, arr_0=pictures.images, **labels)


def _number(path: pathlib.Path) -> int:
    """The number of a shard, by its name; 0 of a file with another."""
    word = path.stem.removeprefix("shard_")
    return int(word) if word.isdecimal() else 0


def _members(pictures: Pictures, first: int) -> Iterator[tuple[str, bytes]]:
    """The files of a tar: images by their places from `first` on, and their classes."""
    with concurrent.futures.ThreadPoolExecutor() as threads:
        for i, content in enumerate(threads.map(encoded, map(Image.fromarray, pictures.images))):
            yield f"{first + i:07}.png", content
            if pictures.labels is not None:
                yield f"{first + i:07}.cls", str(pictures.labels[i]).encode()


def _parts(request: Request) -> list[Request]:
    """The requests of the shards: rows in turn, or with rejection whole rows as far as they fit, so that the best are
    chosen among all of a row's images.
    """
    images, rows = len(request.values), max(len(request.rows), 1)
    count = images // rows
    order, size = np.arange(images), IMAGES
    if request.rejection is None:
        order = rearrange(order, "(row count) -> (count row)", row=rows)
    elif count <= IMAGES:
        size = IMAGES // count * count
    parts, first = [], 0
    for start in range(0, images, size):
        parts.append(request.at(order[start : start + size], first))
        first += len(parts[-1].candidates)
    return parts


def _about(prior: LoadedPrior, request: Request) -> dict[str, Any]:
    """All that decides the images, in JSON's terms."""
    about = {
        "prior": [*_origin(prior.run), "averaged weights" if prior.ema else "last weights"],
        "tokenizer": _origin(prior.tokenizer.run),
        **_conditions(request.values),
        "seed": request.seed,
        "draws": [dataclasses.asdict(draw) for draw in request.draws],
        "guidance": dataclasses.asdict(request.guidance),
        "fixed_positions": request.fixed_positions,
        "images_per_shard": IMAGES,
    }
    about |= {"dtype": prior.dtype} if prior.dtype else {}  # earlier versions knew none
    if request.rejection is not None:
        about |= {"scorer": _judge(request.rejection.scorer), "acceptance": request.rejection.acceptance}
    return json.loads(json.dumps(about))


def _conditions(values: Int[np.ndarray, "n ..."]) -> dict[str, object]:
    """The conditions of images: classes, which shards name, in any order; texts, which they do not, in theirs."""
    if values.ndim == 1:
        labels, counts = np.unique(values, return_counts=True)
        return {"labels": labels.tolist(), "count": counts.tolist()}
    digest = hashlib.sha256(np.ascontiguousarray(values, "<i4").tobytes()).hexdigest()
    return {"texts": f"{len(values)} of SHA-256 {digest}"}


def _judge(scorer: Scorer) -> list[str | int] | str:
    return _origin(scorer.run) if isinstance(scorer, LoadedClassifier) else repr(scorer)


def _origin(run: Run) -> list[str | int]:
    """The place of a run, and its steps: a run that trained on gives other images."""
    return [str(run.path) if in_bucket(run.path) else os.path.abspath(run.path), run.step]
