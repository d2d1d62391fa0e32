"""Pictures that follow each other, as a notebook plays them and as a file."""

import base64
import dataclasses
import io
import os

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rqjax.store import outputs

ENDING = ".gif"
LAST = 2.0
"""Seconds that the last picture stays before the first one comes again."""


@dataclasses.dataclass(frozen=True)
class Animation:
    """Pictures of one size, each shown for some seconds, again and again."""

    frames: UInt8[np.ndarray, "frames high wide 3"]
    seconds: float = 0.15  # of each but the last

    def __len__(self) -> int:
        return len(self.frames)

    def __repr__(self) -> str:
        count, high, wide, _ = self.frames.shape
        return f"{count} pictures of {high}x{wide}, {self.seconds:g} seconds each"

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = True) -> None:
        """Writes a .gif. Raises InputError for other endings, and for a file that is there unless `overwrite`."""
        target = outputs.checked(os.fspath(path), (ENDING,), overwrite=overwrite, flag="path")
        with outputs.whole(target) as file:
            file.write(self._gif())

    def _gif(self) -> bytes:
        first, *rest = (Image.fromarray(frame) for frame in self.frames)
        milliseconds = [round(1000 * self.seconds)] * len(rest) + [round(1000 * LAST)]
        out = io.BytesIO()
        first.save(out, "gif", save_all=True, append_images=rest, duration=milliseconds, loop=0)
        return out.getvalue()

    def _repr_html_(self) -> str:
        return f'<img src="data:image/gif;base64,{base64.b64encode(self._gif()).decode()}" alt="{self!r}">'
