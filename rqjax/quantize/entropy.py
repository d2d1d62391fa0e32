"""Patch entropy: how much detail a region of an image holds, and the thresholds that turn it into grains."""

import json
import math
import os
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

BINS: Mapping[str, tuple[float, float]] = {"0_1": (0.0, 1.0), "-1_1": (-1.0, 1.0)}
"""Where the 32 brightness bins begin and end; "0_1" is that of the official threshold files and weights."""
LUMA = (0.2989, 0.5870, 0.1140)
WIDTH = 0.01
TINY = 1e-40
"""Added to masses and probabilities by the definition; no normal float32, so only its logarithm appears here."""
FLOOR = 2.947292990206026e-37
"""The entropy of a patch far from every bin, 32 * TINY * |ln TINY|; it occurs as a threshold, so it must be exact."""


def patch_entropy(image: Float[Array, "b height width 3"], patch: int, bins: str) -> Float[Array, "b h w"]:
    """The entropy, in nats, of the soft brightness histogram of each `patch` x `patch` square, at most ln 32.

    `image` is in [-1, 1]; `bins` is a key of BINS. Equal to the definition in float32 with denormal numbers, but
    computed on logarithms, hence finite on machines that flush them to zero. Raises ValueError for unknown bins or
    sides that `patch` does not divide.
    """
    if bins not in BINS:
        raise ValueError(f"entropy bins {bins!r} are unknown: choose one of {sorted(BINS)}")
    _, height, width, _ = image.shape
    if patch < 1 or height % patch or width % patch:
        raise ValueError(f"patches of {patch} do not divide an image of {height}x{width}: resize the image")
    gray = jnp.einsum("bhwc,c->bhw", image.astype(jnp.float32), jnp.array(LUMA), precision=jax.lax.Precision.HIGHEST)
    pixels = rearrange(gray, "b (h r) (w s) -> b h w (r s)", r=patch, s=patch)
    centres = jnp.asarray(np.linspace(*BINS[bins], 32), jnp.float32)
    kernel = -0.5 * jnp.square((pixels[..., None] - centres) / WIDTH)
    mass = jax.nn.logsumexp(kernel, axis=-2) - 2 * math.log(patch)
    total = jnp.logaddexp(jax.nn.logsumexp(mass, axis=-1, keepdims=True), math.log(TINY))
    log_p = mass - total
    return jnp.maximum(-jnp.sum(jnp.exp(log_p) * jnp.maximum(log_p, -200.0), axis=-1), FLOOR)


def thresholds(entropies: Float[np.ndarray, "..."]) -> dict[int, float]:
    """The entropy at each percentile k = 1..99 of a data set: element floor(N k / 100) of its sorted patch entropies.

    Raises ValueError if there are none.
    """
    ordered = np.sort(np.asarray(entropies, np.float32), axis=None)
    if not ordered.size:
        raise ValueError("found no patch entropies to take percentiles of: give at least one image")
    return {k: float(ordered[ordered.size * k // 100]) for k in range(1, 100)}


def threshold_for(values: Mapping[int, float], ratio: float) -> float:
    """The entropy above which a region belongs to the `ratio` most detailed ones, to the nearest whole percent.

    -inf where the ratio rounds to 1 (every region is above) and +inf where it rounds to 0. Raises ValueError outside
    [0, 1].
    """
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"ratio {ratio} is outside [0, 1]: give the share of regions that are to be fine")
    percentile = 100 - round(100 * ratio)
    if percentile in (0, 100):
        return -math.inf if percentile == 0 else math.inf
    return float(values[percentile])


def write_thresholds(path: str | os.PathLike[str], values: Mapping[int, float], bins: str, patch: int) -> None:
    """Saves a table as JSON, see table_json."""
    pathlib.Path(path).write_text(table_json(values, bins, patch))


def table_json(values: Mapping[int, float], bins: str, patch: int) -> str:
    """A table as JSON: the 99 percentiles under "1".."99", and beside them its bins and its patch size."""
    content = {"bins": bins, "patch": patch, **{str(k): float(v) for k, v in sorted(values.items())}}
    return json.dumps(content, indent=1) + "\n"


def read_thresholds(path: str | os.PathLike[str], bins: str, patch: int) -> dict[int, float]:
    """The percentiles in a JSON file, see parse_thresholds. Raises ValueError for anything else."""
    try:
        content = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"threshold table {path} cannot be read ({error}): give a JSON file of percentiles") from error
    return parse_thresholds(content, path, bins, patch)


def parse_thresholds(text: bytes, path: str | os.PathLike[str], bins: str, patch: int) -> dict[int, float]:
    """The percentiles in the text of a JSON file at `path`, checked to have been computed with `bins` and `patch`.

    A file that holds the 99 keys alone is an official one, which does not say how it was computed: it is taken at its
    word. Raises ValueError for anything else.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"threshold table {path} cannot be read ({error}): give a JSON file of percentiles") from error
    percentiles = [str(k) for k in range(1, 100)]
    found = content if isinstance(content, dict) else {}
    unusable = [k for k in percentiles if not (isinstance(found.get(k), int | float) and abs(found[k]) < 1e30)]
    if unusable or set(found) - {*percentiles, "bins", "patch"}:
        raise ValueError(f"threshold table {path} does not hold exactly the percentiles 1 to 99: compute it anew")
    its_bins, its_patch = found.get("bins", bins), found.get("patch", patch)
    if (its_bins, its_patch) != (bins, patch):
        raise ValueError(
            f"threshold table {path} was computed with bins {its_bins} and patches of {its_patch}, "
            f"the model uses bins {bins} and patches of {patch}: compute a table for this model"
        )
    return {int(k): float(found[k]) for k in percentiles}
