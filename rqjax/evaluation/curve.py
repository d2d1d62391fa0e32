"""Rate against distortion: the bits of an image at each rate that a tokenizer can code it with, and the error left."""

import csv
import dataclasses
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from rqjax.data.images import to_float, to_uint8
from rqjax.errors import InputError
from rqjax.interface import AT_FIXED_PLACES, BY_DEPTH, BY_DETAIL, Batch, Sums, Tokenizer
from rqjax.metrics import bits_per_image, psnr, ssim
from rqjax.metrics.ssim import WINDOW
from rqjax.nets.lpips import LPIPS

SMALLEST = 16
"""Pixels of a side from which LPIPS has an image."""


@dataclasses.dataclass(frozen=True)
class Point:
    """One rate of a tokenizer, means over images."""

    series: str  # points of one are joined
    value: float  # depths, or how far from all coarse (0) to all fine (1)
    codes: float  # of an image
    bits: float  # of an image, with log2 of the book's size for each code, and what says where finer codes lie
    entropy_bits: float  # the same with the entropy of each book's codes, as measured
    mse: float  # of pixels in [0, 1], as bytes
    psnr: float  # dB, the mean over images
    ssim: float | None = None  # None for images smaller than its window
    lpips: float | None = None  # None without VGG16's weights


def curve(model: Tokenizer, batches: Iterable[Batch], lpips: LPIPS | None = None) -> list[Point]:
    """The points of `model.rates` over images, with LPIPS if its network is given. Raises InputError if no image can
    be read.
    """
    totals: dict[str, np.ndarray] = {}
    for batch in batches:
        for name, value in jax.device_get(_sums(model, lpips, batch["image"], batch["counts"])).items():
            totals[name] = np.asarray(totals.get(name, 0.0) + np.float64(value))
    images = float(totals.pop("images", 0.0))
    if not images:
        raise InputError("none of the images can be read: give others as --data FOLDER")
    return [_point(model, index, totals, images) for index in range(len(model.rates))]


@jax.jit
def _sums(model: Tokenizer, lpips: LPIPS | None, image: UInt8[Array, "b h w 3"], counts: Bool[Array, "b"]) -> Sums:
    """The sums of each rate's figures [rates], the hits of each book [rates codes], and the number of images."""
    recon, hits = model.at_rates(to_float(image), counts)
    original = image.astype(jnp.float32) / 255

    def of_rate(made: Float[Array, "b h w 3"]) -> dict[str, Float[Array, ""]]:
        seen = to_uint8(made).astype(jnp.float32) / 255
        found = {"mse": jnp.mean(jnp.square(original - seen), axis=(1, 2, 3)), "psnr": psnr(original, seen)}
        if min(image.shape[1:3]) >= WINDOW:
            found["ssim"] = ssim(original, seen)
        if lpips is not None and min(image.shape[1:3]) >= SMALLEST:
            found["lpips"] = lpips(to_float(image), 2 * seen - 1)
        return {name: jnp.sum(jnp.where(counts, each, 0.0)) for name, each in found.items()}

    figures = jax.lax.map(of_rate, recon)
    return figures | {f"codes_{name}": found for name, found in hits.items()} | {"images": jnp.sum(counts)}


def _point(model: Tokenizer, index: int, totals: Mapping[str, np.ndarray], images: float) -> Point:
    rate = model.rates[index]
    hits = {name: value[index] for name, value in totals.items() if name.startswith("codes_")}
    bits = bits_per_image(hits, images)
    return Point(
        series=rate.series,
        value=rate.value,
        codes=float(sum(found.sum() for found in hits.values()) / images),
        bits=bits["nominal"] + rate.extra_bits,
        entropy_bits=bits["entropy"] + rate.extra_bits,
        mse=float(totals["mse"][index] / images),
        psnr=float(totals["psnr"][index] / images),
        **{name: float(totals[name][index] / images) for name in ("ssim", "lpips") if name in totals},
    )


def table(curves: Mapping[str, Sequence[Point]]) -> str:
    """All points as CSV, with the name of the tokenizer in front."""
    out = io.StringIO()
    names = [field.name for field in dataclasses.fields(Point)]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", *names])
    for run, points in curves.items():
        writer.writerows([run, *dataclasses.astuple(point)] for point in points)
    return out.getvalue()


def verdict(points: Sequence[Point]) -> str:
    """Whether more rate leaves less error, and whether a choice by detail beats fixed places at equal bits: a line."""
    if all(point.series == BY_DEPTH for point in points):
        rising = [b.value for a, b in itertools.pairwise(points) if b.mse >= a.mse]
        depths = ", ".join(f"{value:g}" for value in rising)
        return f"The error does not fall at depth {depths}." if rising else "The error falls with each depth."
    detail = sorted((p for p in points if p.series == BY_DETAIL), key=lambda p: p.bits)
    fixed = [p for p in points if p.series == AT_FIXED_PLACES]
    worse = [p.value for p in fixed if np.interp(p.bits, [d.bits for d in detail], [d.mse for d in detail]) >= p.mse]
    than = "error than the same tokenizer's fixed places"
    if not worse:
        return f"At equal bits, regions chosen by detail leave less {than}, at every share."
    shares = ", ".join(f"{value:g}" for value in worse)
    return f"At equal bits, regions chosen by detail leave no less {than} at the shares {shares}."


def comparison(names: tuple[str, str], curves: tuple[Sequence[Point], Sequence[Point]]) -> str:
    """Which of two tokenizers leaves less error at equal bits, wherever both have a rate and at least one a point: a
    line. Between two points of a curve stands the line that joins them, which some images at either rate reach.
    """
    (x, y), (u, v) = (_line(points) for points in curves)
    low, high = max(x[0], u[0]), min(x[-1], u[-1])
    if low > high:
        return f"{names[0]} and {names[1]} have no bits in common."
    at = np.unique([bits for bits in (*x, *u) if low <= bits <= high])
    lower = np.interp(at, x, y) < np.interp(at, u, v)
    first, second = names if np.mean(lower) >= 0.5 else names[::-1]
    count = max(np.sum(lower), np.sum(~lower))
    where = "" if count == len(at) else f", at {count} of the {len(at)} measured rates"
    return f"At equal bits, from {low:.0f} to {high:.0f}, {first} leaves less error than {second}{where}."


def _line(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    """The bits, rising, and the errors of the rates that a tokenizer is meant for."""
    found = sorted((point.bits, point.mse) for point in points if point.series != AT_FIXED_PLACES)
    return [bits for bits, _ in found], [mse for _, mse in found]
