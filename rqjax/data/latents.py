"""The latents of images: arrays that a tokenizer made of them once, for a prior to train on in their place."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

DTYPES: Mapping[str, Any] = {"bfloat16": ml_dtypes.bfloat16, "uint16": np.uint16, "int32": np.int32}
"""Of vectors before quantization, of codes, and of codes of larger books."""
VECTORS = "bfloat16"


@dataclasses.dataclass(frozen=True)
class Latents:
    """Of an image one array [h w c], or several: views of it, the first central and not mirrored.

    Vectors before quantization (bfloat16), or codes: c depths, or of several grains the code of each cell and its
    grain. `tokenizer` is the checksum of the tokenizer that made them, `views` how many an image of "train" has.
    """

    tokenizer: str
    shape: tuple[int, int, int]
    dtype: str
    views: int

    @classmethod
    def parsed(cls, stored: Mapping[str, Any]) -> "Latents":
        """Those that stored() describes. Raises ValueError, KeyError or TypeError for anything else."""
        high, wide, channels = map(int, stored["shape"])
        found = cls(str(stored["tokenizer"]), (high, wide, channels), str(stored["dtype"]), int(stored["views"]))
        if found.dtype not in DTYPES or min(*found.shape, found.views) < 1:
            raise ValueError(f"no latents are {found.views} of {found.shape} of {found.dtype}")
        return found

    def stored(self) -> dict[str, Any]:
        """In JSON's terms."""
        return dataclasses.asdict(self) | {"shape": list(self.shape)}

    @property
    def vectors(self) -> bool:
        """Whether they are vectors before quantization, of which codes can be drawn; else codes."""
        return self.dtype == VECTORS

    def nothing(self) -> Shaped[np.ndarray, "h w c"]:
        """Zeros, for a row that counts for nothing."""
        return np.zeros(self.shape, DTYPES[self.dtype])

    def views_of(self, content: bytes) -> Shaped[np.ndarray, "views h w c"]:
        """The arrays in a record. Raises ValueError if it is damaged."""
        views = np.frombuffer(content, DTYPES[self.dtype]).reshape(-1, *self.shape)
        if not len(views):
            raise ValueError("a record has no latents")
        return views
