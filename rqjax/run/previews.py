"""Pictures of a run as files: previews/step_000060_reconstructions.png in its directory."""

import re
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rqjax.data.images import encoded, named_columns, sheet
from rqjax.errors import printable
from rqjax.store.remote import Path, replace_file

FOLDER = "previews"
KEPT = 50
"""Newest pictures of one name that stay; the first one stays too."""
NAME = re.compile(r"step_(\d+)_(\w+)\.png")


def write_preview(
    workdir: Path, step: int, name: str, images: UInt8[np.ndarray, "n h w 3"], classes: Sequence[str] = ()
) -> None:
    """Writes images, side by side, as the picture `name` of a step, and takes old ones away.

    The class of each image, if given, stands above it.
    """
    folder = workdir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    picture = sheet(images[None])
    if classes:
        picture = named_columns(picture, [printable(each) for each in classes], gap=picture.shape[0] // images.shape[1])
    png = encoded(Image.fromarray(picture), optimize=True)
    replace_file(folder / f"step_{step:06d}_{name}.png", png)
    for path in [path for _, other, path in found_previews(workdir) if other == name][1:-KEPT]:
        path.unlink()


def found_previews(workdir: Path) -> Iterator[tuple[int, str, Path]]:
    """(step, name, file) of all pictures of a run, in order of step."""
    folder = workdir / FOLDER
    files = folder.iterdir() if folder.is_dir() else ()
    found = [(match, path) for path in files if (match := NAME.fullmatch(path.name))]
    yield from sorted((int(match[1]), match[2], path) for match, path in found)
