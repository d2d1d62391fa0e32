"""The memory of a device that drawing images takes, estimated before it starts."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax

from rqjax.api.batches import Batches
from rqjax.api.pixels import DECODED
from rqjax.errors import InputError
from rqjax.interface import Prior, Tokenizer

MAPS = 4
"""Arrays as large as the input of the layer that makes the pixels, which are held at once."""
UNITS = {"GiB": 2**30, "MiB": 2**20}


@dataclasses.dataclass(frozen=True)
class Plan:
    """Bytes on each device. An estimate: compilers hold a little more or less."""

    weights: int  # of both models, and of the prior's layers as the loop over tokens reads them
    image: int  # of each image that it draws: caches and logits
    pixels: int  # of each image that it decodes, DECODED at once: the map that the pixels are made of
    images: int  # computed at once, on all devices together
    devices: int
    limit: int | None  # of the smallest device; None if one does not tell

    @classmethod
    def of(
        cls, batches: Batches, prior: Prior, tokenizer: Tokenizer, resolution: int, guided: bool, images: int
    ) -> "Plan":
        """For so many images in all and both models whole on each device; with guidance the prior sees each twice."""
        drawing, (inputs, outputs) = prior.footprint, tokenizer.last_layer.kernel.shape[-2:]
        pixels = 4 * 3 * resolution**2 * inputs // outputs  # bytes of that map: a layer of patches makes many of each
        row = (2 if guided else 1) * drawing.row
        weights = bytes_of(prior) + bytes_of(tokenizer) + drawing.layers
        limit = limit_of(batches.mesh.devices.flat)
        return cls(weights, row, MAPS * pixels, batches.size(images), batches.mesh.size, limit)

    @property
    def needed(self) -> int:
        """Bytes of a device while it draws some images and decodes those before them."""
        return self._for(-(-self.images // self.devices))

    def _for(self, each: int) -> int:
        return self.weights + each * self.image + min(each, DECODED) * self.pixels

    def check(self) -> None:
        """Raises InputError if so many images at once do not fit devices whose memory is known."""
        if self.limit is None or self.needed <= self.limit:
            return
        left = self.limit - self.weights
        each = left // (self.image + self.pixels)
        fit = self.devices * (each if each < DECODED else (left - DECODED * self.pixels) // self.image)
        remedy = "not one image fits: take dtype=bfloat16 or int8, or a smaller model"
        raise InputError(f"{self}: {f'batch={fit} fits' if fit > 0 else remedy}")

    def __str__(self) -> str:
        has = "a device that does not tell its own" if self.limit is None else f"{_shown(self.limit)} of each device"
        return (
            f"{self.images} images at once take about {_shown(self.needed)}, {_shown(self.weights)} of these for"
            f" weights, of {has}"
        )


def bytes_of(tree: Any) -> int:
    """Bytes of all arrays of a tree."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def limit_of(devices: Iterable[Any]) -> int | None:
    """Bytes of the smallest memory among the devices; None if one does not tell."""
    told = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in devices]
    return min(told) or None


def _shown(size: int) -> str:
    unit = "GiB" if size >= UNITS["GiB"] else "MiB"
    return f"{size / UNITS[unit]:.1f} {unit}"
