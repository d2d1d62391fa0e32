"""Images level by level, from coarse to fine: what a tokenizer makes of them, for how many bits, and how near it is."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from rqjax.data.images import encoded, enlarge, to_float
from rqjax.dq.router import NAMES
from rqjax.interface import Codes, Tokenizer
from rqjax.metrics import psnr
from rqjax.quantize import dynamic

WIDE = 96
"""Pixels that a frame is wide at least, so that its figures fit below it."""
GAP, LINE, FONT = 6, 14, 11
"""Pixels between frames, and of a line of text and its letters."""


@dataclasses.dataclass(frozen=True)
class Filmstrip:
    """Images beside what the first 1, 2, ... levels of their codes make of them; a notebook shows a row for each.

    A level is a depth (RQ) or a grain (DQ). `bits` are those of an image's codes up to a level, with log2 of the book's
    size for each code, and for DQ with those of the grains. `psnr` is in dB, of the images as bytes.
    """

    originals: UInt8[np.ndarray, "n h w 3"]
    maps: dict[str, UInt8[np.ndarray, "n h w 3"]]  # how the codes lie over the images, where images differ in that
    names: tuple[str, ...]  # of the levels
    levels: UInt8[np.ndarray, "levels n h w 3"]
    bits: Float[np.ndarray, "levels n"]
    psnr: Float[np.ndarray, "levels n"]

    def __repr__(self) -> str:
        means = zip(self.names, self.bits.mean(axis=1), self.psnr.mean(axis=1), strict=True)
        return "\n".join(f"{name}: {bits:.0f} bits, {quality:.2f} dB" for name, bits, quality in means)

    def grid(self) -> Image.Image:
        """One picture: a row for each image, with the bits and the PSNR of each level below it."""
        heads = ("original", *self.maps, *self.names)
        columns = np.stack([self.originals, *self.maps.values(), *self.levels])
        factor = max(1, math.ceil(WIDE / columns.shape[3]))
        high, wide = (factor * side + GAP for side in columns.shape[2:4])
        high += 2 * LINE
        page = Image.new("RGB", (wide * len(heads), LINE + high * len(self.originals)), "white")
        draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=FONT)
        for column, (head, images) in enumerate(zip(heads, columns, strict=True)):
            draw.text((column * wide, 0), head, fill="black", font=font)
            for row, image in enumerate(images):
                left, top = column * wide, LINE + row * high
                page.paste(Image.fromarray(enlarge(image, factor)), (left, top))
                draw.text((left, top + high - 2 * LINE), self._below(column, row), fill="black", font=font)
        return page

    def _below(self, column: int, row: int) -> str:
        """The text below a frame; only levels have one."""
        level = column - 1 - len(self.maps)
        return f"{self.bits[level, row]:.0f} bits\n{self.psnr[level, row]:.1f} dB" if level >= 0 else ""

    def _repr_png_(self) -> bytes:
        return encoded(self.grid())


def level_names(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The parts into which codes fall, as a picture names them: "depth 1", "depth 2" ..., or "coarse", "+ fine"."""
    if isinstance(tokenizer.code_sizes, dynamic.Codes):
        first, *others = NAMES[tokenizer.levels]
        return (first, *(f"+ {name}" for name in others))
    return tuple(f"depth {level + 1}" for level in range(tokenizer.levels))


@jax.jit
def bits_by_level(tokenizer: Tokenizer, codes: Codes) -> Float[Array, "n levels"]:
    """The bits of each image's codes up to each level: log2 of its book's size for a code, of the number of grains for
    the grain of a region.
    """
    sizes, one = tokenizer.code_sizes, jnp.ones(1, bool)
    grains = jnp.sum(jnp.log2(sizes.grain)) if isinstance(sizes, dynamic.Codes) else 0.0

    def of_image(codes: Codes) -> Float[Array, "levels"]:
        hits = tokenizer.code_hits(codes, one)
        each = jnp.stack([jnp.sum(found) * math.log2(found.size) for found in hits.values()])
        return grains + jnp.cumsum(each)

    return jax.vmap(of_image)(jax.tree.map(lambda x: x[:, None], codes))  # batches of one


@jax.jit
def maps_of(
    tokenizer: Tokenizer, image: UInt8[Array, "n h w 3"] | Float[Array, "n h w 3"], codes: Codes
) -> dict[str, Float[Array, "n h w 3"]]:
    """Pictures by name of how codes lie over images; see Tokenizer.code_maps."""
    return tokenizer.code_maps(to_float(image) if image.dtype == jnp.uint8 else image, codes)


def psnr_by_level(
    originals: UInt8[np.ndarray, "n h w 3"], levels: UInt8[np.ndarray, "levels n h w 3"]
) -> Float[np.ndarray, "levels n"]:
    """The PSNR of each level's images, in dB."""
    whole = jnp.asarray(originals, jnp.float32) / 255
    return np.stack([np.asarray(psnr(whole, jnp.asarray(images, jnp.float32) / 255)) for images in levels])
