"""Statistics of real images as files: our own, ADM's official ones, pytorch-fid's; and plain images as in ADM's."""

import hashlib
import json
import pathlib
import zipfile
import zlib
from typing import Any

import numpy as np

from rqjax.api.batches import Batches
from rqjax.errors import InputError, printable
from rqjax.evaluation.judges import INCEPTION, Judge
from rqjax.evaluation.sets import KEPT, Collected, Reference
from rqjax.metrics import Gaussian
from rqjax.store import outputs

AT_ONCE = 1024
"""Images of a file that are looked at together, so that their features, not all layers, take memory."""


def save(path: pathlib.Path, reference: Reference, judge: Judge) -> None:
    """Writes statistics as .npz: `mu` and `sigma`, for sFID `mu_s` and `sigma_s`, `features` of single images, and
    `about`, the judge and the images as JSON.
    """
    arrays = {"mu": reference.gaussian.mean, "sigma": reference.gaussian.covariance}
    if reference.spatial is not None:
        arrays |= {"mu_s": reference.spatial.mean, "sigma_s": reference.spatial.covariance}
    if reference.features is not None:
        arrays["features"] = reference.features
    about = {"judge": judge.title, **judge.about, "images": dict(reference.about), "count": reference.count}
    outputs.write_arrays(path, **arrays, about=np.array(json.dumps(about)))


def load(path: str, judge: Judge, batches: Batches, size: int) -> Reference:
    """The statistics of a file, and the features of its images (`arr_0`) if it has some.

    Raises InputError for a file that holds neither, and for statistics of another judge.
    """
    arrays = _arrays(path)
    origin: dict[str, object] = {"file": pathlib.Path(path).name, "sha256": _digest(path)}
    said = _said(path, arrays)
    if said:
        _check_judge(path, said, judge)
        origin["made_of"] = said["images"]
    seen = _looked(path, arrays, judge, batches, size) if "arr_0" in arrays else None
    if "mu" not in arrays:
        assert seen is not None
        return seen.reference(origin)
    features = None if seen is None else seen.features
    if seen is None and said and "features" in arrays:
        features = np.asarray(arrays["features"], np.float32)
    spatial = None
    if judge.spatial and {"mu_s", "sigma_s"} <= arrays.keys():
        spatial = _gaussian(path, arrays, "mu_s", "sigma_s", judge.spatial)
    gaussian = _gaussian(path, arrays, "mu", "sigma", judge.features)
    return Reference(said["count"] if said else None, gaussian, spatial, features, origin)


def check_file(path: str, title: str) -> None:
    """Raises InputError for a file that holds no statistics and no images, or statistics of another kind of judge.

    Statistics that say nothing of themselves are Inception's, as the public evaluators keep them.
    """
    try:
        with np.load(path) as data:
            names = set(data.files)
            arrays = {"about": data["about"]} if "about" in names else {}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"--reference {path} cannot be read ({_reason(error)}): {_EXPECTED}") from None
    if not ({"mu", "sigma"} <= names or "arr_0" in names):
        held = printable(", ".join(sorted(names)), 100) or "nothing"
        raise InputError(f"--reference {path} holds {held}: {_EXPECTED}")
    kind = _said(path, arrays).get("judge", INCEPTION) if "mu" in names else title
    if kind != title:
        way = "pass --inception FILE" if kind == INCEPTION else "leave --inception out"
        raise InputError(
            f"--reference {path} has statistics of {printable(kind, 60)}, and this is an evaluation in {title}: {way},"
            " or make others by --save_reference"
        )


_EXPECTED = "expected .npz with mu and sigma, or with images as arr_0"


def _arrays(path: str) -> dict[str, np.ndarray]:
    wanted = ("mu", "sigma", "mu_s", "sigma_s", "features", "arr_0", "about")
    try:
        with np.load(path) as data:
            return {name: data[name] for name in wanted if name in data.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"--reference {path} is damaged ({_reason(error)}): make or fetch it again") from None


def _reason(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(" ".join(said.split()), 100)


def _said(path: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The words that a file of ours has about itself; nothing for one of others."""
    if "about" not in arrays:
        return {}
    try:
        said = json.loads(str(arrays["about"]))
        return {**said, "count": int(said["count"]), "images": said["images"]}
    except (ValueError, KeyError, TypeError):
        raise InputError(f"--reference {path} is damaged (about): make it again by --save_reference") from None


def _check_judge(path: str, said: dict[str, Any], judge: Judge) -> None:
    """Raises InputError unless statistics were made by this judge: the same weights, the same resize."""
    for key in ("judge", "sha256", "resize", "pixels"):
        own = judge.title if key == "judge" else judge.about[key]
        if said.get(key) != own:
            theirs = printable(said.get(key), 80)
            raise InputError(
                f"--reference {path} was made with {key} {theirs}, this evaluation has {own}: make one by"
                " --save_reference, or pass what it was made with"
            )


def _gaussian(path: str, arrays: dict[str, np.ndarray], mean: str, covariance: str, dim: int) -> Gaussian:
    first, second = (np.asarray(arrays[name], np.float64) for name in (mean, covariance))
    if first.shape != (dim,) or second.shape != (dim, dim) or not np.isfinite(second).all():
        raise InputError(
            f"--reference {path} has {mean} and {covariance} of shapes {first.shape} and {second.shape}: expected"
            f" finite ones of {dim} features, which the judge sees"
        )
    return Gaussian(first, second)


def _looked(path: str, arrays: dict[str, np.ndarray], judge: Judge, batches: Batches, size: int) -> Collected:
    """The features of a file's images, all of them if it has no statistics, else of those that single ones are for."""
    images = arrays["arr_0"]
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or len(images) < 2:
        raise InputError(f"--reference {path} has arr_0 of {images.dtype} {images.shape}: expected uint8 (n, h, w, 3)")
    if judge.title != INCEPTION and images.shape[1:3] != (size, size):
        raise InputError(
            f"--reference {path} has images of {images.shape[1]}x{images.shape[2]}: expected {size}x{size}"
        )
    images = images[:KEPT] if "mu" in arrays else images
    return look(judge, batches, images, Collected(KEPT))


def look(judge: Judge, batches: Batches, images: np.ndarray, into: Collected) -> Collected:
    """Adds all of an array of images to a set, a part at a time."""
    for first in range(0, len(images), AT_ONCE):
        into.add(batches.run(judge.look, images[first : first + AT_ONCE]))
    return into


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
