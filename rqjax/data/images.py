"""Pixels: uint8 NHWC in batches and files, float32 in [-1, 1] in nets."""

import io
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

NARROW = 64
"""Pixels of width below which an image is too small to look at."""
NAMES_HIGH, LONGEST = 18, 64
"""Pixels of height of a line of names, and the characters of a name that are looked at."""


def to_float(image: UInt8[Array | np.ndarray, "*b h w c"]) -> Float[Array, "*b h w c"]:
    """Pixels in [-1, 1]: 0 becomes -1 and 255 becomes 1."""
    return jnp.asarray(image, jnp.float32) / 127.5 - 1


def to_uint8(image: Float[Array | np.ndarray, "*b h w c"]) -> UInt8[Array, "*b h w c"]:
    """Pixels rounded to 0..255, whatever lies outside [-1, 1] clamped."""
    return jnp.round((jnp.clip(jnp.asarray(image, jnp.float32), -1, 1) + 1) * 127.5).astype(jnp.uint8)


def tile(rows: np.ndarray, gap: int = 1) -> np.ndarray:
    """One picture [H W 3] of uint8 images [rows columns h w 3], with white lines of `gap` pixels between them."""
    padded = np.pad(rows, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
    return rearrange(padded, "r c h w k -> (r h) (c w) k")[: -gap or None, : -gap or None]


def enlarge(picture: np.ndarray, factor: int) -> np.ndarray:
    """A picture whose pixels are repeated `factor` times in each direction, for images too small to look at."""
    return picture.repeat(factor, 0).repeat(factor, 1)


def sheet(rows: UInt8[np.ndarray, "rows columns h w 3"]) -> UInt8[np.ndarray, "high wide 3"]:
    """One picture of all images, enlarged if they are narrower than NARROW."""
    return enlarge(tile(rows), max(1, NARROW // rows.shape[3]))


def encoded(image: Image.Image, kind: str = "png", **options: int) -> bytes:
    """The bytes of a file of that kind, with Pillow's options for it."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def named_rows(picture: UInt8[np.ndarray, "h w 3"], names: Sequence[str]) -> UInt8[np.ndarray, "h wide 3"]:
    """A picture of equally high rows with the name of each to its left, in black on white."""
    high = picture.shape[0] / len(names)
    font = ImageFont.load_default(size=max(8.0, min(16.0, high / 3)))
    margin = 8 + round(max(font.getlength(name) for name in names))
    page = Image.new("RGB", (margin + picture.shape[1], picture.shape[0]), "white")
    page.paste(Image.fromarray(picture), (margin, 0))
    draw = ImageDraw.Draw(page)
    for i, name in enumerate(names):
        draw.text((4, (i + 0.5) * high), name, fill="black", font=font, anchor="lm")
    return np.asarray(page)


def named_columns(picture: UInt8[np.ndarray, "h w 3"], names: Sequence[str], gap: int) -> UInt8[np.ndarray, "high w 3"]:
    """A picture of equally wide columns, `gap` pixels between them, with the name of each above it, cut off where it
    would be wider.
    """
    wide = (picture.shape[1] + gap) // len(names)
    font = ImageFont.load_default(size=11.0)
    page = Image.new("RGB", (picture.shape[1], picture.shape[0] + NAMES_HIGH), "white")
    page.paste(Image.fromarray(picture), (0, NAMES_HIGH))
    draw = ImageDraw.Draw(page)
    for i, name in enumerate(names):
        kept = len(name[:LONGEST])
        while kept > 1 and font.getlength(_cut(name, kept)) > wide - gap - 2:
            kept -= 1
        draw.text((i * wide + 1, NAMES_HIGH / 2), _cut(name, kept), fill="black", font=font, anchor="lm")
    return np.asarray(page)


def _cut(name: str, kept: int) -> str:
    return name if kept >= len(name) else f"{name[:kept]}."
