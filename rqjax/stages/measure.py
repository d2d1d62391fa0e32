"""Images and what a tokenizer makes of them: compared, summed up, and as pictures."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, UInt8

from rqjax.data.images import to_float, to_uint8
from rqjax.interface import Sums, Tokenizer
from rqjax.metrics import psnr, ssim
from rqjax.nets.lpips import LPIPS

DEPTH, DECODED = "depth ", "decoded"
"""Names of rows of reconstructions: of the first 1, 2, ... codes, with the number behind, and of all codes."""
WRONG = 64.0
"""The difference, of 255, that an error map shows as white."""


def total(figures: dict[str, Float[Array, "b"]], counts: Bool[Array, "b"]) -> Sums:
    """The sums of figures of each image over those that count, and `images`, the number of these."""
    sums = {name: jnp.sum(jnp.where(counts, values, 0.0)) for name, values in figures.items()}
    return sums | {"images": jnp.sum(counts.astype(jnp.float32))}


def terms_of_images(
    kind: str, lpips: LPIPS | None, image: Float[Array, "b h w 3"], recon: Float[Array, "b h w 3"]
) -> dict[str, Float[Array, "b"]]:
    """The terms of each image's loss: `reconstruction`, of squares (`kind` "mse") or sizes ("l1"), and `lpips`, if it
    is there. Each is the mean over an image, which lies on one device.
    """
    error = image - recon
    each = jnp.square(error) if kind == "mse" else jnp.abs(error)
    terms = {"reconstruction": jnp.mean(each, axis=(1, 2, 3))}
    return terms if lpips is None else terms | {"lpips": lpips(image, recon)}


def tokenizer_sums(
    model: Tokenizer, image: Float[Array, "b h w 3"], recon: Float[Array, "steps b h w 3"], counts: Bool[Array, "b"]
) -> Sums:
    """Sums over the images that count: `psnr` and `ssim`, also of each step if there are several; and the codes' use.

    Images and reconstructions are in [-1, 1]; the latter are compared as the bytes that a file would hold.
    """
    figures = {}
    for step, made in enumerate(recon):
        original, seen = (to_uint8(x).astype(jnp.float32) / 255 for x in (image, made))
        of_step = {"psnr": psnr(original, seen), "ssim": ssim(original, seen)}
        figures |= of_step  # those of the last step stay
        if len(recon) > 1:
            figures |= {f"{name}_{step + 1}": values for name, values in of_step.items()}
    codes = model.encode(image)
    hits = {f"codes_{name}": found for name, found in model.code_hits(codes, counts).items()}
    return total(figures | model.code_counts(codes), counts) | hits


@jax.jit
def tokenizer_rows(model: Tokenizer, image: UInt8[Array, "n h w 3"]) -> dict[str, UInt8[Array, "n h w 3"]]:
    """Pictures by name, to stand below each other: how the codes lie, where images differ in that, and then what the
    first 1, 2, ... codes make of them ("depth 1" ...), or all codes ("decoded").
    """
    floats = to_float(image)
    maps = model.code_maps(floats, model.encode(floats))
    steps = model.progressive(floats)
    names = [f"{DEPTH}{d + 1}" for d in range(len(steps))] if len(steps) > 1 else [DECODED]
    rows = {**maps, **dict(zip(names, steps, strict=True))}
    return {name: to_uint8(row) for name, row in rows.items()}


def error_maps(
    image: UInt8[Array | np.ndarray, "n h w 3"], rows: Mapping[str, UInt8[Array | np.ndarray, "n h w 3"]]
) -> dict[str, UInt8[Array, "n h w 3"]]:
    """Where pictures of an image are wrong, on one scale for all: black where they are right, over red and yellow to
    white where the mean difference of the three channels is WRONG or more. Rows that show how codes lie have none.
    """
    maps = {}
    for name, row in rows.items():
        if name != DECODED and not name.startswith(DEPTH):
            continue
        error = jnp.mean(jnp.abs(jnp.asarray(row, jnp.float32) - jnp.asarray(image, jnp.float32)), axis=-1)
        heat = jnp.clip(3 * error[..., None] / WRONG - jnp.arange(3.0), 0, 1)  # red fills first, then green, then blue
        maps[name] = jnp.round(255 * heat).astype(jnp.uint8)
    return maps


def stacked(image: UInt8[Array, "n h w 3"], rows: dict[str, UInt8[Array, "n h w 3"]]) -> UInt8[Array, "n h2 w 3"]:
    """Each image with its rows below it."""
    return rearrange(jnp.stack([image, *rows.values()]), "r n h w c -> n (r h) w c")
