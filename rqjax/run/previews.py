"""Pictures of a run as files: previews/step_000060_reconstructions.png in its directory."""

import io
import re
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rqjax.data.images import enlarge, tile
from rqjax.store.remote import Path

FOLDER = "previews"
KEPT = 50
"""Newest pictures of one name that stay; the first one stays too."""
NAME = re.compile(r"step_(\d+)_(\w+)\.png")
LEAST = 64
"""Pixels of a side below which images are enlarged."""


def write_preview(workdir: Path, step: int, name: str, images: UInt8[np.ndarray, "n h w 3"]) -> None:
    """Writes images, side by side, as the picture `name` of a step, and takes old ones away."""
    folder = workdir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    out = io.BytesIO()
    Image.fromarray(enlarge(tile(images[None]), max(1, LEAST // images.shape[2]))).save(out, "png", optimize=True)
    target = folder / f"step_{step:06d}_{name}.png"
    fresh = target.with_name(f".{target.name}.tmp")
    fresh.write_bytes(out.getvalue())
    fresh.replace(target)
    for path in [path for _, other, path in found_previews(workdir) if other == name][1:-KEPT]:
        path.unlink()


def found_previews(workdir: Path) -> Iterator[tuple[int, str, Path]]:
    """(step, name, file) of all pictures of a run, in order of step."""
    folder = workdir / FOLDER
    files = folder.iterdir() if folder.is_dir() else ()
    found = [(match, path) for path in files if (match := NAME.fullmatch(path.name))]
    yield from sorted((int(match[1]), match[2], path) for match, path in found)
