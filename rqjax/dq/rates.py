"""A DQ-VAE at other rates than its own: regions get their finer grains by detail, or at places that stay the same.

Both orders of the regions give every share of fine ones; the same tokenizer codes both, so that what differs is the
choice of places alone.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rqjax.dq.grains import GrainEncoder, PatchGrainEncoder
from rqjax.dq.routing import RoutingConfig
from rqjax.interface import AT_FIXED_PLACES, BY_DETAIL, Rate
from rqjax.quantize import dynamic
from rqjax.quantize.entropy import patch_entropy

SHARES = tuple(k / 8 for k in range(9))
"""How far images go from all coarse (0) to all fine (1)."""


def rates_of(grains: int, regions: int) -> tuple[Rate, ...]:
    """Every share by detail and, between the two ends, at fixed places; by detail the choice of regions costs bits."""
    inner = SHARES[1:-1]
    detail = [Rate(BY_DETAIL, share, _choice_bits(_counts(share, grains, regions), regions)) for share in SHARES]
    return (*detail, *(Rate(AT_FIXED_PLACES, share, 0.0) for share in inner))


def grains_at_rates(
    routing: RoutingConfig,
    encoder: GrainEncoder | PatchGrainEncoder,
    image: Float[Array, "b height width 3"],
    features: Sequence[Float[Array, "b _ _ dim"]],
) -> Int[Array, "rates b h w"]:
    """The grains of each region at each of `rates_of`, for images and the features of all grains."""
    grains, side = len(features), features[0].shape[1]
    if routing.router == "feature":
        detail = dynamic.detail_score(encoder.router(features))
    else:
        detail = patch_entropy(image, image.shape[1] // side, routing.entropy_bins)
    fixed = jnp.broadcast_to(-_spread(side), detail.shape)
    scores = {BY_DETAIL: detail, AT_FIXED_PLACES: fixed}
    found = [
        dynamic.exact_grain(scores[rate.series], _counts(rate.value, grains, side * side))
        for rate in rates_of(grains, side * side)
    ]
    return jnp.stack(found)


def _counts(share: float, grains: int, regions: int) -> tuple[int, ...]:
    """The regions of each finer grain; of three grains, a region takes each of two steps with that chance."""
    ratios = (share,) if grains == 2 else (2 * share * (1 - share), share * share)
    return dynamic.grain_counts(ratios, regions)


def _choice_bits(counts: Sequence[int], regions: int) -> float:
    """log2 of the number of ways to give so many regions each of the finer grains."""
    each = [regions - sum(counts), *counts]
    return math.log2(math.factorial(regions) // math.prod(map(math.factorial, each)))


def _spread(side: int) -> Float[np.ndarray, "side side"]:
    """The places of a grid in an order that spreads (Bayer 1973): the first half of them are every other one, which the
    router "checkerboard" makes fine.
    """
    order = np.zeros((1, 1))
    while len(order) < side:
        order = np.block([[4 * order + 2, 4 * order], [4 * order + 1, 4 * order + 3]])
    return order[:side, :side].astype(np.float32)
