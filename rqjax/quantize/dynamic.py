"""Dynamic quantization: the grain of each region, the budget of finer ones, and the codebook that all grains share."""

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from einops import rearrange, reduce, repeat
from jaxtyping import Array, Float, Int, Key

from rqjax.quantize.codebook import Codebook
from rqjax.quantize.pytree import pytree


@pytree
@dataclasses.dataclass(frozen=True)
class Codes:
    """An image as codes of different grains, in the form that decoders take: every cell of the finest grid has one."""

    codes: Int[Array, "b H W"]  # repeated over the blocks of the coarser grains
    grain: Int[Array, "b h w"]  # 0 = coarse


def packed(codes: Codes) -> Int[Array, "b H W 2"]:
    """The code and the grain of each cell of the finest grid, as one array."""
    size, regions = codes.codes.shape[1], codes.grain.shape[1]
    grain = repeat(codes.grain, "b h w -> b (h r) (w s)", r=size // regions, s=size // regions)
    return jnp.stack([codes.codes, grain], axis=-1)


def unpacked(cells: Int[Array, "b H W 2"], regions: int) -> Codes:
    """The codes of packed() cells, for a grid of `regions` x `regions` regions."""
    every = cells.shape[1] // regions
    return Codes(codes=cells[..., 0], grain=cells[:, ::every, ::every, 1])


def first_best(logits: Float[Array, "b h w grains"]) -> Int[Array, "b h w"]:
    """The grain of the highest logit; of equal ones the coarser."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def straight_through(logits: Float[Array, "b h w grains"], grain: Int[Array, "b h w"]) -> Float[Array, "b h w grains"]:
    """One-hot `grain` in value, softmax of the logits in gradient."""
    soft = jax.nn.softmax(logits, axis=-1)
    return jax.nn.one_hot(grain, logits.shape[-1]) + soft - jax.lax.stop_gradient(soft)


def gate_scale(gate: Float[Array, "b h w grains"], size: int) -> Float[Array, "b size size 1"]:
    """The factor on the merged map that carries the router's gradient: 1 in value, on the finest grid."""
    return upsample(jnp.max(gate, axis=-1, keepdims=True), size)


def upsample(x: Float[Array, "b h w dim"], size: int) -> Float[Array, "b size size dim"]:
    """Every cell repeated over a block, so that the map is `size` cells wide."""
    return repeat(x, "b h w d -> b (h r) (w s) d", r=size // x.shape[1], s=size // x.shape[2])


def merge_grains(
    features: Sequence[Float[Array, "b _ _ dim"]], grain: Int[Array, "b h w"]
) -> Float[Array, "b H W dim"]:
    """The map on the finest grid that shows each region at its own grain; `features` from coarse to fine."""
    size = features[-1].shape[1]
    choice = repeat(grain, "b h w -> b (h r) (w s) 1", r=size // grain.shape[1], s=size // grain.shape[2])
    merged = upsample(features[0], size)
    for g, feature in enumerate(features[1:], start=1):
        merged = jnp.where(choice == g, upsample(feature, size), merged)
    return merged


def codebook_mask(grain: Int[Array, "b h w"], grains: int) -> Float[Array, "b H W"]:
    """The weight of each cell of the finest grid, such that every code counts once: 1 over the cells that share it."""
    weight = jnp.asarray([4.0 ** (g - grains + 1) for g in range(grains)])[grain]
    return repeat(weight, "b h w -> b (h r) (w s)", r=2 ** (grains - 1), s=2 ** (grains - 1))


def of_first_cell(x: Array, grain: Int[Array, "b h w"], grains: int) -> Array:
    """Values of cells [b H W], each that of the first cell that has its code: one value for all cells of a code."""
    side = 2 ** (grains - 1)
    cells = repeat(grain, "b h w -> b (h r) (w s)", r=side, s=side)
    found = x
    for g in range(grains - 1):
        width = 2 ** (grains - 1 - g)
        found = jnp.where(cells == g, repeat(x[:, ::width, ::width], "b h w -> b (h r) (w s)", r=width, s=width), found)
    return found


def code_count(grain: Int[Array, "b h w"]) -> Int[Array, "b"]:
    """The number of codes of each image: 1, 4 or 16 per region."""
    return reduce(4**grain, "b h w -> b", "sum").astype(jnp.int32)


def grain_fractions(grain: Int[Array, "b h w"], grains: int) -> Float[Array, "grains"]:
    """The share of regions of each grain over the batch."""
    return jnp.mean(jax.nn.one_hot(grain, grains), axis=(0, 1, 2))


def threshold_grain(entropy: Float[Array, "b h w"], thresholds: Float[Array, "steps"]) -> Int[Array, "b h w"]:
    """The number of ascending thresholds that each region's entropy exceeds; 0 where it is NaN."""
    return jnp.sum(entropy[..., None] > thresholds, axis=-1, dtype=jnp.int32)


def grain_counts(ratios: Sequence[float], regions: int) -> tuple[int, ...]:
    """The number of an image's regions of each finer grain, given the shares of (median,) fine: round(ratio * regions).

    Raises ValueError for shares outside [0, 1] or over 1 in all.
    """
    if any(not 0 <= ratio <= 1 for ratio in ratios) or sum(ratios) > 1 + 1e-9:
        raise ValueError(f"ratios {tuple(ratios)} of finer grains must lie in [0, 1] and sum to at most 1: lower them")
    # rounding the sums from the finest down keeps the total within the regions
    ends = [round(sum(ratios[i:]) * regions) for i in range(len(ratios))] + [0]
    return tuple(a - b for a, b in itertools.pairwise(ends))


def exact_grain(score: Float[Array, "b h w"], counts: Sequence[int]) -> Int[Array, "b h w"]:
    """Grains such that in every image exactly `counts` regions are (median,) fine: those of the highest score.

    Of equal scores the region that comes first in raster order is the finer; NaN ranks last. Every image of one setting
    has the same number of codes, so its streams have constant lengths.
    """
    flat = rearrange(jnp.where(jnp.isnan(score), -jnp.inf, score), "b h w -> b (h w)")
    rank = jnp.argsort(jnp.argsort(-flat, axis=-1, stable=True), axis=-1)
    ends = jnp.cumsum(jnp.asarray(counts[::-1], jnp.int32))
    grain = jnp.sum(rank[..., None] < ends, axis=-1, dtype=jnp.int32)
    return rearrange(grain, "b (h w) -> b h w", h=score.shape[1])


def detail_score(logits: Float[Array, "b h w grains"]) -> Float[Array, "b h w"]:
    """The detail that a router finds in each region: log of expected grain over expected distance from the finest.

    With two grains this is fine logit minus coarse logit.
    """
    level = jnp.arange(logits.shape[-1], dtype=jnp.float32)
    finer = jax.nn.logsumexp(logits, axis=-1, b=level)
    coarser = jax.nn.logsumexp(logits, axis=-1, b=level[::-1])
    return finer - coarser


def dual_budget(gate: Float[Array, "b h w 2"], target: float, gamma: float) -> Float[Array, ""]:
    """2 gamma (rho - target)^2, with rho the batch's share of fine regions.

    The factor 2 is the reference's: it adds the same term for the coarse share. `gate` is one-hot in value.
    """
    return 2 * gamma * jnp.square(jnp.mean(gate[..., 1]) - target)


def triple_budget(gate: Float[Array, "b h w 3"], median: float, fine: float, gamma: float) -> Float[Array, ""]:
    """gamma (rho_fine - fine)^2 + (rho_median - median)^2: the reference weighs the fine term alone."""
    return gamma * jnp.square(jnp.mean(gate[..., 2]) - fine) + jnp.square(jnp.mean(gate[..., 1]) - median)


@pytree
@dataclasses.dataclass(frozen=True)
class DynamicQuantized:
    """The result of quantizing a merged map."""

    quantized: Float[Array, "b h w dim"]  # float32; gradients pass straight to the map
    codes: Int[Array, "b h w"]
    loss: Float[Array, ""]


def quantize(codebook: Codebook, z: Float[Array, "b h w dim"], mask: Float[Array, "b h w"]) -> DynamicQuantized:
    """The nearest code of every cell of a merged map, and the commitment loss, weighted by the mask.

    The loss is beta |sg[q] - z|^2 + |q - sg[z]|^2; the mean is over all elements, whatever the mask.
    """
    z = z.astype(jnp.float32)
    fixed = jax.lax.stop_gradient(z)
    codes = codebook.nearest(rearrange(fixed, "b h w d -> (b h w) d")).reshape(z.shape[:-1])
    vectors = jax.lax.stop_gradient(codebook.vectors(codes))
    distance = codebook.commitment_weight * jnp.square(vectors - z) + jnp.square(vectors - fixed)
    return DynamicQuantized(
        quantized=z + jax.lax.stop_gradient(vectors - z),
        codes=codes,
        loss=jnp.mean(jnp.mean(distance * mask[..., None], axis=(1, 2, 3))),  # of one image on one device
    )


def learn(
    codebook: Codebook, z: Float[Array, "b h w dim"], codes: Int[Array, "b h w"], key: Key[Array, ""]
) -> tuple[Codebook, Float[Array, ""]]:
    """The codebook after a batch that `quantize` saw with the old one, and the fraction of codes that were restarted.

    Every cell counts, so a coarse code counts once per cell it covers: unlike the loss, the averages are not masked.
    """
    return codebook.learn(rearrange(z, "b h w d -> (b h w) d"), codes.reshape(-1), key)
