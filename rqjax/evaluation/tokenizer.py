"""A tokenizer against real images: what its reconstructions are like, how its codes are used, and what they cost."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key, UInt8

from rqjax.data.images import to_float, to_uint8
from rqjax.errors import InputError
from rqjax.evaluation.curve import SMALLEST
from rqjax.evaluation.judges import INCEPTION, Judge
from rqjax.evaluation.sets import Collected, compared
from rqjax.interface import Batch, Sums, Tokenizer
from rqjax.metrics import bits_per_image, book_use, ms_ssim
from rqjax.metrics.ssim import WINDOW
from rqjax.nets.lpips import LPIPS
from rqjax.stages.measure import tokenizer_sums, total

SHARE, AMONG = 0.5, 100
"""Of pFID: the share of positions whose codes are exchanged, and the nearest codes that they are drawn among."""
NO_WEIGHTS = "Inception's weights are needed (--inception FILE)"
WEIGHTS = f"{NO_WEIGHTS}; the same figures are in the features of a classifier of the data, and compare with no FID"
LEAST = {"ssim": WINDOW, "ms_ssim": 176, "lpips": SMALLEST}
"""Pixels of a side below which there is no such figure."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """The figures of a tokenizer."""

    images: int
    means: Mapping[str, float]  # over images, by name
    codes: Mapping[str, Mapping[str, float | int]]  # size, usage, entropy and perplexity of each depth or grain
    bits: Mapping[str, float]  # of the codes of an image, nominal and by entropy
    judged: Mapping[str, Mapping[str, float]]  # reconstructions, and perturbed ones, in the judge's features


def measured(
    model: Tokenizer, batches: Iterable[Batch], judge: Judge | None, lpips: LPIPS | None, seed: int = 0
) -> Measured:
    """The figures over all images that count. Raises InputError for fewer than two."""
    totals: dict[str, np.ndarray] = {}
    real, made, perturbed, place = Collected(), Collected(), Collected(), 0
    key = jax.random.key(seed)
    for batch in batches:
        image, counts = batch["image"], batch["counts"]
        places = np.arange(place, place + len(image), dtype=np.int32)
        sums, recon, other = _passed(model, lpips, image, counts, key, places)
        place += len(image)
        for name, value in jax.device_get(sums).items():
            totals[name] = np.asarray(totals.get(name, 0.0) + np.float64(value))
        if judge is not None:
            for collected, seen in ((real, image), (made, recon), (perturbed, other)):
                collected.add(judge.look(seen), counts)
    images = float(totals.pop("images", 0.0))
    if images < 2:
        raise InputError(f"{images:.0f} of the images can be read, figures need two: give others as --data FOLDER")
    return _figures(totals, images, judge, (real, made, perturbed))


def _figures(
    totals: Mapping[str, np.ndarray], images: float, judge: Judge | None, sets: tuple[Collected, ...]
) -> Measured:
    hits = {name.removeprefix("codes_"): value for name, value in totals.items() if value.ndim}
    judged = {}
    if judge is not None:
        real, made, perturbed = sets
        reference = real.reference({})
        judged["reconstructions"] = judge.named(compared(judge, made, reference), "r")
        judged["perturbed"] = judge.named(compared(judge, perturbed, reference), "p")
    return Measured(
        images=round(images),
        means={name: float(value) / images for name, value in totals.items() if not value.ndim},
        codes=book_use(hits),
        bits=bits_per_image(hits, images),
        judged=judged,
    )


@jax.jit
def _passed(
    model: Tokenizer,
    lpips: LPIPS | None,
    image: UInt8[Array, "b h w 3"],
    counts: Bool[Array, "b"],
    key: Key[Array, ""],
    places: Int[Array, "b"],
) -> tuple[Sums, UInt8[Array, "b h w 3"], UInt8[Array, "b h w 3"]]:
    """Sums over the images that count, the reconstructions, and those of perturbed codes; all as bytes."""
    floats = to_float(image)
    recon, codes = model.reconstruct(floats), model.encode(floats)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, places)
    seen, other = to_uint8(recon), to_uint8(model.decode_codes(model.perturbed(codes, keys, SHARE, AMONG)))
    original, unit = image.astype(jnp.float32) / 255, seen.astype(jnp.float32) / 255
    figures = {"mse": jnp.mean(jnp.square(original - unit), axis=(1, 2, 3))}
    side = min(image.shape[1:3])
    if side >= LEAST["ms_ssim"]:
        figures["ms_ssim"] = ms_ssim(original, unit)
    if lpips is not None and side >= LEAST["lpips"]:
        figures["lpips"] = lpips(floats, to_float(seen))
    sums: dict[str, Any] = total(figures, counts) | tokenizer_sums(model, floats, recon[None], counts)
    return sums, seen, other


def perturbation() -> dict[str, object]:
    """The settings of the perturbed codes."""
    return {"share_of_positions": SHARE, "drawn_among_the_nearest": AMONG}


def missing(judge: Judge | None, lpips: bool, size: int) -> list[str]:
    """Lines about figures that are not there, and why."""
    said = []
    if judge is None or judge.title != INCEPTION:
        said.append("no rFID and pFID: " + (NO_WEIGHTS if judge is None else WEIGHTS))
    if not lpips:
        said.append("no LPIPS: it needs VGG16's weights (--lpips FILE)")
    if size < LEAST["ms_ssim"]:
        said.append(f"no MS-SSIM: images of {size}x{size} are smaller than its coarsest window, 176 pixels")
    return said
