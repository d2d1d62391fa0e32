"""How a DQ-VAE decides which grain each region gets: by features or patch entropy, by threshold or exact share."""

import dataclasses
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from rqjax.dq.grains import GrainEncoder
from rqjax.dq.router import ACTIVATIONS, FeatureRouter
from rqjax.errors import InputError
from rqjax.quantize import dynamic
from rqjax.quantize.entropy import BINS, patch_entropy, read_thresholds, threshold_for

ROUTERS = ("feature", "entropy")


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class RoutingConfig:
    """How grains are chosen. Tuples about grains list the finer ones alone: (fine,), or (median, fine).

    `router` "feature" learns where detail is, held to `ratios` by the budget; "entropy" reads it off the image's
    patches, by `thresholds`. With `exact_ratio` either gives exactly the shares `ratios` of each image, its most
    detailed regions.
    """

    router: str = "feature"
    exact_ratio: bool = False
    ratios: tuple[float, ...] = (0.5,)
    budget_weight: float = (
        10.0  # of the feature router: the reference's gamma, quantize.dynamic says what it multiplies
    )
    groups: int = 32  # of the feature router's normalisation, 0 for none
    layers: int = 2  # of the feature router, 1 or 2
    activation: str = "silu"  # between them
    entropy_bins: str = "0_1"  # "0_1" as in the published model and threshold tables, "-1_1" for new ones
    thresholds: tuple[float, ...] = ()  # ascending; () unless the entropy router goes by thresholds

    def table_thresholds(self, path: str | os.PathLike[str], patch: int) -> tuple[float, ...]:
        """The thresholds that a table gives for `ratios`. Raises InputError for tables of other bins or patches."""
        try:
            table = read_thresholds(path, self.entropy_bins, patch)
            return tuple(threshold_for(table.values, sum(self.ratios[i:])) for i in range(len(self.ratios)))
        except ValueError as error:
            raise InputError(str(error)) from None

    def check(self, grids: tuple[int, ...], channels: int) -> None:
        """Raises InputError for values that route nothing on these grids, or features of these channels."""
        finer = len(grids) - 1
        if self.router not in ROUTERS:
            raise InputError(f"router is {self.router!r}: expected one of {', '.join(ROUTERS)}")
        if self.layers not in (1, 2) or self.activation not in ACTIVATIONS:
            raise InputError(
                f"router of {self.layers} layers with {self.activation!r}: expected 1 or 2, "
                f"with {' or '.join(ACTIVATIONS)} between them"
            )
        if self.groups < 0 or (self.groups and channels % self.groups):
            raise InputError(f"router groups {self.groups} do not divide {channels} channels: choose a divisor, or 0")
        if len(self.ratios) != finer:
            raise InputError(f"ratios {self.ratios} for {finer + 1} grains: give the share of each but the coarse")
        try:
            dynamic.grain_counts(self.ratios, grids[0] ** 2)
        except ValueError as error:
            raise InputError(str(error)) from None
        self._check_entropy(finer)

    def _check_entropy(self, finer: int) -> None:
        if self.entropy_bins not in BINS:
            raise InputError(f"entropy_bins is {self.entropy_bins!r}: expected one of {', '.join(BINS)}")
        wanted = finer if self.router == "entropy" and not self.exact_ratio else 0
        ascending = list(self.thresholds) == sorted(self.thresholds) and not any(map(math.isnan, self.thresholds))
        if len(self.thresholds) != wanted or not ascending:
            raise InputError(f"thresholds are {self.thresholds}: expected {wanted} here, in ascending order")
        if self.router == "entropy" and self.budget_weight:
            raise InputError(
                f"budget_weight is {self.budget_weight}: entropy learns nothing from a budget, set it to 0"
            )

    def settings(self, grids: tuple[int, ...], resolution: int) -> "Routing":
        """The part of it that routing needs."""
        return Routing(
            grids=grids,
            by_entropy=self.router == "entropy",
            counts=dynamic.grain_counts(self.ratios, grids[0] ** 2) if self.exact_ratio else (),
            targets=tuple(self.ratios),
            budget_weight=self.budget_weight,
            patch=resolution // grids[0],
            bins=self.entropy_bins,
            thresholds=tuple(self.thresholds),
        )

    def feature_router(self, channels: int, grains: int, rngs: nnx.Rngs) -> FeatureRouter | None:
        """The router that learns, None where entropy routes."""
        if self.router == "entropy":
            return None
        sizes: dict[str, Any] = {"groups": self.groups, "layers": self.layers, "activation": self.activation}
        return FeatureRouter(channels, grains, **sizes, rngs=rngs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Routing:
    """What is fixed about the choice of grains; hashable, so that it may be a static field of a model.

    Tuples about grains list the finer ones alone, but for `grids`, which lists them all.
    """

    grids: tuple[int, ...]
    by_entropy: bool
    counts: tuple[int, ...]  # regions of each finer grain in every image; () where shares are free
    targets: tuple[float, ...]  # shares that the budget pulls to
    budget_weight: float
    patch: int
    bins: str
    thresholds: tuple[float, ...]

    @property
    def grains(self) -> int:
        return len(self.grids)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Routed:
    """An image after the choice of grains."""

    merged: Any  # [b H W dim], each region at its own grain, on the finest grid
    grain: Any  # Int[b h w]
    gate: Any  # [b h w grains]: one-hot in value; in evaluation by features, the router's logits
    mask: Any  # [b H W], 1 over the cells that share a code


def route(
    routing: Routing,
    encoder: GrainEncoder,
    image: Float[Array, "b height width 3"],
    noise: Float[Array, "b h w grains"] | None,
) -> Routed:
    """The merged map of an image: with Gumbel `noise` as in training, with None as in evaluation.

    In training by features, the merged map carries the router's gradient: it is multiplied by the gate's chosen value,
    1.
    """
    features = encoder(image)
    if routing.by_entropy:
        entropy = patch_entropy(image, routing.patch, routing.bins)
        grain = _by_score(routing, entropy) if routing.counts else _by_threshold(routing, entropy)
        gate = jax.nn.one_hot(grain, routing.grains)
        scale = None
    else:
        logits = encoder.router(features)
        logits = logits if noise is None else logits + noise
        grain = _by_score(routing, dynamic.detail_score(logits)) if routing.counts else dynamic.first_best(logits)
        gate = logits if noise is None else dynamic.straight_through(logits, grain)
        scale = None if noise is None else dynamic.gate_scale(gate, routing.grids[-1])
    merged = dynamic.merge_grains(features, grain)
    merged = merged if scale is None else merged * scale
    return Routed(merged=merged, grain=grain, gate=gate, mask=dynamic.codebook_mask(grain, routing.grains))


def _by_score(routing: Routing, score: Array) -> Array:
    return dynamic.exact_grain(score, routing.counts)


def _by_threshold(routing: Routing, entropy: Array) -> Array:
    return dynamic.threshold_grain(entropy, jnp.asarray(routing.thresholds, jnp.float32))


def budget(routing: Routing, gate: Float[Array, "b h w grains"]) -> Float[Array, ""]:
    """What the batch's shares of finer regions cost, for a gate that is one-hot in value; 0 without a budget."""
    if not routing.budget_weight:
        return jnp.zeros(())
    if routing.grains == 2:
        return dynamic.dual_budget(gate, routing.targets[0], routing.budget_weight)
    return dynamic.triple_budget(gate, routing.targets[0], routing.targets[1], routing.budget_weight)
