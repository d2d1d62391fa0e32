"""Images through a tokenizer and back: `rqjax reconstruct --tokenizer runs/a --images FOLDER --out recon.png`."""

import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import UInt8

from rqjax import data
from rqjax.data.images import enlarge, tile, to_float, to_uint8, write_png
from rqjax.errors import InputError
from rqjax.flags.reconstruct import COUNT, IMAGES, OUT, TOKENIZER
from rqjax.interface import Tokenizer
from rqjax.run.directory import Run


def main(_: Sequence[str]) -> None:
    """Reconstructs the images that the flags name."""
    if TOKENIZER.value is None or IMAGES.value is None:
        raise InputError("reconstruct needs --tokenizer DIR and --images FOLDER")
    run = Run.open(TOKENIZER.value).tokenizer()
    size, tokenizer = run.tokenizer_config.resolution, run.model()
    source = data.DataConfig(name="folder", path=IMAGES.value, split="all", resize=size, size=size, batch=COUNT.value)
    images = next(iter(data.examples(source, COUNT.value)))["image"]
    rows = reconstructions(tokenizer, images)
    write_png(OUT.value, enlarge(tile(np.stack([images, *rows.values()])), max(1, 64 // size)))
    print(f"{pathlib.Path(OUT.value)}: {len(images)} images of {size}x{size}")
    for name, row in rows.items():
        error = squared_error(row, images)
        print(f"  {name:<8} mean squared error {error:.5f}   PSNR {-10 * np.log10(max(error, 1e-10)):.2f} dB")


def squared_error(row: np.ndarray, images: np.ndarray) -> float:
    """Mean squared error of uint8 images, for pixels in [0, 1]."""
    return float(np.mean((np.float64(row) - images) ** 2)) / 255**2


def reconstructions(tokenizer: Tokenizer, images: UInt8[np.ndarray, "b h w 3"]) -> dict[str, np.ndarray]:
    """uint8 reconstructions by name: `depth 1` .. `depth D` for residual codes, else `decoded`."""
    steps = np.asarray(jax.jit(lambda t, x: to_uint8(t.progressive(to_float(x))))(tokenizer, images))
    return {f"depth {d + 1}": step for d, step in enumerate(steps)} if len(steps) > 1 else {"decoded": steps[0]}
