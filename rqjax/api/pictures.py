"""The images that a model made, as arrays, as one picture, and as files."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from PIL import Image

from rqjax.api.inputs import FoundCodes
from rqjax.data.images import encoded, named_rows, sheet
from rqjax.run.dataset import few
from rqjax.store import outputs

ENDINGS = (*outputs.PICTURES, outputs.ARRAYS, outputs.FOLDER)
"""Of the names under which pictures are saved."""


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Images, with their codes if they have some; a notebook shows them as one picture."""

    images: UInt8[np.ndarray, "n h w 3"]
    codes: FoundCodes | None = None  # as the tokenizer's encode() gives them
    labels: Int[np.ndarray, "n"] | None = None  # their classes, 0 if there are none; no texts have any
    rows: tuple[str, ...] = ()  # names of equally many images each, which make a row of the picture
    scores: Float[np.ndarray, "n"] | None = None  # where a scorer chose them
    drawn: int | None = None  # images that it chose them from

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        count, high, wide, _ = self.images.shape
        chosen = "" if self.drawn is None else f", the best of {self.drawn} drawn"
        return f"{count} images of {high}x{wide}{chosen}" + (f": {few(self.rows)}" if self.rows else "")

    def grid(self, columns: int | None = None) -> Image.Image:
        """One picture of all images: a named row for each of `rows` if there are several, else nearly a square, or
        `columns` in a row. Small images are enlarged.
        """
        return Image.fromarray(self._grid(columns))

    def _grid(self, columns: int | None = None) -> UInt8[np.ndarray, "high wide 3"]:
        named = columns is None and len(self.rows) > 1
        across = len(self) // len(self.rows) if named else columns or int(np.ceil(len(self) ** 0.5))
        return picture(self.images, across, self.rows if named else ())

    def save(self, path: str | os.PathLike[str], *, overwrite: bool | None = None) -> None:
        """Writes one picture (.png, .jpg, .webp), the arrays `arr_0` (images) and `label` (.npz), or a folder of single
        pictures.

        With `overwrite` it takes the place of what is there; unless that is said, a file does and a folder does not.
        Raises InputError for other endings, and for what it may not take the place of.
        """
        name = os.fspath(path)
        over = not outputs.is_folder(name) if overwrite is None else overwrite
        outputs.checked(name, ENDINGS, overwrite=over, flag="path")
        self.write(name)

    def write(self, name: str) -> None:
        """Writes what a name asks for that was found fit, as `save` does, over what is there."""
        path = pathlib.Path(name)
        if outputs.is_folder(name):
            outputs.write_folder(path, dict(zip(self._names(), self.images, strict=True)))
        elif path.suffix.lower() == outputs.ARRAYS:
            labels = {} if self.labels is None else {"label": self.labels}
            outputs.write_arrays(path, arr_0=self.images, **labels)
        else:
            outputs.write_picture(path, self._grid())

    def _names(self) -> list[str]:
        digits = len(str(len(self)))
        ends = [""] * len(self) if self.labels is None else [f"_label{label}" for label in self.labels]
        return [f"{i:0{digits}}{end}.png" for i, end in enumerate(ends)]

    def _repr_png_(self) -> bytes:
        return encoded(self.grid())


def picture(images: UInt8[np.ndarray, "n h w 3"], columns: int, names: Sequence[str] = ()) -> np.ndarray:
    """One picture of all images, `columns` in a row, small ones enlarged, with the rows' names if there are any."""
    missing = -len(images) % columns
    images = np.concatenate([images, np.full((missing, *images.shape[1:]), 255, np.uint8)])
    shown = sheet(rearrange(images, "(r c) ... -> r c ...", c=columns))
    return named_rows(shown, names) if names else shown
