"""From an index of a source to an example: an image that is cropped, or latents of which one view is taken."""

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int

from rqjax.data import augment
from rqjax.errors import InputError, RunError, printable
from rqjax.files import patiently

GIVE_UP = 100  # unreadable examples in a row
Found = tuple[np.ndarray, dict[str, Any]]
"""The array of a record, and the record."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loader(abc.ABC):
    """From an index to fields, "label", "index" and "corrupt": {name: reason}; and "text" where `captions` makes token
    ids of a caption.

    A damaged file raises InputError if `on_corrupt` is "stop". Else the next readable one in the order of the source
    takes its place, or with `replace` false the element has nothing but "corrupt". Errors of the machine that may pass
    are no damage: they raise RunError if they stay, so that a batch never depends on them.
    """

    source: Any
    on_corrupt: str
    replace: bool
    captions: Callable[[str, np.random.Generator], Int[np.ndarray, "length"]] | None = None

    @abc.abstractmethod
    def _read(self, index: int) -> Found:
        """An example before anything is drawn. Raises any exception for what cannot be read."""

    @abc.abstractmethod
    def _fields(self, index: int, found: np.ndarray, generator: np.random.Generator) -> dict[str, Any]:
        """The example's own fields."""

    def __call__(self, wanted: int, generator: np.random.Generator) -> dict[str, Any]:
        index, found, corrupt = self._first_readable(wanted)
        if found is None:
            return {"corrupt": corrupt}
        array, record = found
        fields = self._fields(index, array, generator)
        # last of all, so that crops are the same without captions
        text = {"text": self.captions(record["caption"], generator)} if self.captions else {}
        label = np.int32(record["label"])
        return fields | {"label": label, "index": np.int32(index), "corrupt": corrupt} | text

    def _first_readable(self, wanted: int) -> tuple[int, Found | None, dict[str, str]]:
        corrupt: dict[str, str] = {}
        for index in range(wanted, wanted + min(len(self.source), GIVE_UP)):
            index %= len(self.source)
            name = self.source.name(index)
            try:
                return index, patiently(functools.partial(self._read, index), printable(name)), corrupt
            except RunError:
                raise
            except Exception as error:  # decoders raise nearly everything on damaged bytes
                reason = augment.reason_of(error)
                if self.on_corrupt == "stop":
                    raise InputError(
                        f"{name} cannot be read ({reason}): mend it, or set data.on_corrupt=skip"
                    ) from error
                corrupt[name] = reason
            if not self.replace:
                return index, None, corrupt
        name, reason = next(iter(corrupt.items()))
        raise InputError(
            f"{len(corrupt)} images in a row cannot be read, the first {name} ({reason}): look at the files"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageLoader(Loader):
    """Its field is "image", uint8 [size size 3].

    An image smaller than the crop raises InputError, since a wrong configuration is no damage.
    """

    size: int
    side: int
    draft: int
    resample: str
    crop: str
    min_scale: float
    mirror: bool

    def _read(self, index: int) -> Found:
        record = self.source[index]
        return augment.pixels(record["image"], self.side, self.resample, self.draft), record

    def _fields(self, index: int, found: np.ndarray, generator: np.random.Generator) -> dict[str, Any]:
        if min(found.shape[:2]) < self.size:
            height, width = found.shape[:2]
            raise InputError(
                f"{self.source.name(index)} is {width}x{height}, smaller than the {self.size}x{self.size} crop:"
                f" set data.resize={self.size} to enlarge such images, or lower data.size"
            )
        image = self._crop(found, generator)
        return {"image": augment.flip(image, generator) if self.mirror else image}

    def _crop(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        if self.crop == "random":
            return augment.random_crop(image, self.size, generator)
        if self.crop == "random_resized":
            return augment.random_resized_crop(image, self.size, generator, self.min_scale, self.resample)
        return augment.center_crop(image, self.size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentLoader(Loader):
    """Its field is "latent", [h w c]: any of an image's views if `drawn`, else the first."""

    drawn: bool

    def _read(self, index: int) -> Found:
        record = self.source[index]
        return record["latent"], record

    def _fields(self, index: int, found: np.ndarray, generator: np.random.Generator) -> dict[str, Any]:
        return {"latent": found[int(generator.integers(len(found))) if self.drawn else 0]}
