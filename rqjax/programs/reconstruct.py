"""Images through a tokenizer and back: `rqjax reconstruct --tokenizer runs/a --images FOLDER --out recon.png`."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import UInt8

from rqjax import data
from rqjax.data.images import sheet, to_float
from rqjax.errors import InputError
from rqjax.flags.reconstruct import COUNT, IMAGES, OUT, OVERWRITE, TOKENIZER
from rqjax.run.directory import Run
from rqjax.stages.measure import tokenizer_rows
from rqjax.store import outputs


def main(_: Sequence[str]) -> None:
    """Reconstructs the images that the flags name."""
    if TOKENIZER.value is None or IMAGES.value is None:
        raise InputError("reconstruct needs --tokenizer DIR and --images FOLDER")
    out = outputs.checked(OUT.value, outputs.PICTURES, overwrite=OVERWRITE.value)
    run = Run.open(TOKENIZER.value).tokenizer()
    size, tokenizer = run.tokenizer_config.resolution, run.model()
    images = _images(IMAGES.value, COUNT.value, size)
    rows = {name: np.asarray(row) for name, row in tokenizer_rows(tokenizer, images).items()}
    outputs.write_picture(out, sheet(np.stack([images, *rows.values()])))
    print(f"{out}: {len(images)} images of {size}x{size}; rows: originals, {', '.join(rows)}")
    for name, row in rows.items():
        if name.startswith(("depth", "decoded")):
            error = squared_error(row, images)
            print(f"  {name:<8} mean squared error {error:.5f}   PSNR {-10 * np.log10(max(error, 1e-10)):.2f} dB")
    counts = jax.jit(lambda t, x: t.code_counts(t.encode(to_float(x))))(tokenizer, images)
    for name, values in counts.items():
        print(f"  {name}: {' '.join(f'{value:.3g}' for value in np.asarray(values))}")


def _images(path: str, count: int, size: int) -> UInt8[np.ndarray, "b h w 3"]:
    """The first images of a folder. Names those that cannot be read; raises InputError if none can."""
    source = data.DataConfig(name="folder", path=path, split="all", resize=size, size=size, batch=count)
    with data.examples(source, count) as batches:
        found = [batch["image"] for batch in batches]
    for line in data.skipped({**batches.source.left_out, **batches.corrupt}):
        print(line)
    if not found:
        raise batches.nothing()
    return found[0]


def squared_error(row: np.ndarray, images: np.ndarray) -> float:
    """Mean squared error of uint8 images, for pixels in [0, 1]."""
    return float(np.mean((np.float64(row) - images) ** 2)) / 255**2
