"""How a DQ-VAE decides which grain each region gets: by features or patch entropy, by threshold or exact share."""

import dataclasses
import math
import pathlib

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from rqjax.checks import one_of
from rqjax.dq.grains import GrainEncoder, PatchGrainEncoder
from rqjax.dq.router import ACTIVATIONS, FeatureRouter
from rqjax.errors import InputError
from rqjax.quantize import dynamic
from rqjax.quantize.entropy import BINS, patch_entropy, read_thresholds, threshold_for
from rqjax.quantize.pytree import pytree

ROUTERS = ("feature", "entropy", "checkerboard")


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class RoutingConfig:
    """How grains are chosen. Tuples about grains list the finer ones alone: (fine,), or (median, fine).

    `router` "feature" learns where detail is, held to `ratios` by the budget; "entropy" reads it off the image's
    patches, by `thresholds`. With `exact_ratio` either gives exactly the shares `ratios` of each image, its most
    detailed regions. "checkerboard" looks at no image: every other region is fine, a fixed length to compare with.
    """

    router: str = "feature"  # feature (learned), entropy (of the image's patches) or checkerboard (none)
    exact_ratio: bool = False  # each image has exactly the shares `ratios`
    ratios: tuple[float, ...] = (0.5,)  # shares of the finer grains
    budget_weight: float = 10.0  # of the feature router: gamma in quantize.dynamic's budgets
    groups: int = 32  # of the feature router's normalisation, 0 for none
    layers: int = 2  # of the feature router, 1 or 2
    activation: str = "silu"  # between them
    entropy_bins: str = "0_1"  # "0_1" as in the published model and threshold tables, "-1_1" for new ones
    thresholds: tuple[float, ...] = ()  # ascending; () unless the entropy router goes by thresholds
    thresholds_path: str = ""  # a table of `rqjax thresholds`: a start takes `thresholds` for `ratios` from it

    def with_thresholds(self, patch: int) -> "RoutingConfig":
        """With the thresholds for its ratios by the table at thresholds_path, if it has one, and without the path.

        `patch` is the side of a coarse region, in pixels. Raises InputError for a router that goes by no thresholds,
        and for a table that cannot be read, or is of other bins or patches.
        """
        if not self.thresholds_path:
            return self
        if self.router != "entropy" or self.exact_ratio:
            raise InputError(
                f"thresholds_path={self.thresholds_path} with router={self.router} and exact_ratio={self.exact_ratio}:"
                " set router=entropy and exact_ratio=false, or leave it out"
            )
        try:
            table = read_thresholds(pathlib.Path(self.thresholds_path).expanduser(), self.entropy_bins, patch)
            # regions above a threshold have its grain or a finer one
            cuts = [threshold_for(table, sum(self.ratios[k:])) for k in range(len(self.ratios))]
        except ValueError as error:
            raise InputError(str(error)) from None
        return dataclasses.replace(self, thresholds=tuple(cuts), thresholds_path="")

    def check(self, grids: tuple[int, ...], channels: int) -> None:
        """Raises InputError for values that route nothing on these grids, or features of these channels."""
        finer = len(grids) - 1
        one_of(ROUTERS, router=self.router)
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
        self._check_checkerboard()

    def _check_entropy(self, finer: int) -> None:
        one_of(BINS, entropy_bins=self.entropy_bins)
        wanted = finer if self.router == "entropy" and not self.exact_ratio else 0
        ascending = list(self.thresholds) == sorted(self.thresholds) and not any(map(math.isnan, self.thresholds))
        if self.thresholds_path:
            raise InputError(f"thresholds_path={self.thresholds_path} is not read yet: see with_thresholds()")
        if len(self.thresholds) != wanted or not ascending:
            raise InputError(f"thresholds are {self.thresholds}: expected {wanted} here, in ascending order")
        if self.router == "entropy" and self.budget_weight:
            raise InputError(
                f"budget_weight is {self.budget_weight}: entropy learns nothing from a budget, set it to 0"
            )

    def _check_checkerboard(self) -> None:
        if self.router == "checkerboard" and (self.ratios != (0.5,) or self.exact_ratio or self.budget_weight):
            raise InputError(
                f"router checkerboard with ratios={self.ratios}, exact_ratio={self.exact_ratio} and"
                f" budget_weight={self.budget_weight}: it makes half of the regions fine and nothing else, so set"
                " ratios=(0.5,), exact_ratio=False and budget_weight=0"
            )

    def feature_router(self, channels: int, grains: int, rngs: nnx.Rngs) -> FeatureRouter | None:
        """The router that learns, None where nothing does."""
        if self.router != "feature":
            return None
        return FeatureRouter(
            channels, grains, groups=self.groups, layers=self.layers, activation=self.activation, rngs=rngs
        )


@pytree
@dataclasses.dataclass(frozen=True)
class Routed:
    """An image after the choice of grains."""

    merged: Float[Array, "b H W dim"]  # each region at its own grain, on the finest grid
    grain: Int[Array, "b h w"]
    gate: Float[Array, "b h w grains"]  # one-hot in value; in evaluation by features, the router's logits
    mask: Float[Array, "b H W"]  # 1 over the cells that share a code


def route(
    routing: RoutingConfig,
    encoder: GrainEncoder | PatchGrainEncoder,
    image: Float[Array, "b height width 3"],
    noise: Float[Array, "b h w grains"] | None,
) -> Routed:
    """The merged map of an image: with Gumbel `noise` as in training, with None as in evaluation.

    In training by features the merged map is multiplied by the gate's chosen value, 1, which carries its gradient.
    """
    features = encoder(image)
    if routing.router == "feature":
        logits = encoder.router(features)
        logits = logits if noise is None else logits + noise
        grain = _by_logits(routing, logits)
        gate = logits if noise is None else dynamic.straight_through(logits, grain)
    else:
        size = features[0].shape[1]
        of_place = routing.router == "checkerboard"
        grain = _by_place(len(image), size) if of_place else _by_entropy(routing, image, size)
        gate = jax.nn.one_hot(grain, len(features))
    merged = dynamic.merge_grains(features, grain)
    if noise is not None and routing.router == "feature":
        merged = merged * dynamic.gate_scale(gate, features[-1].shape[1])
    return Routed(merged=merged, grain=grain, gate=gate, mask=dynamic.codebook_mask(grain, len(features)))


def _by_entropy(routing: RoutingConfig, image: Float[Array, "b height width 3"], size: int) -> Int[Array, "b h w"]:
    """The grains of a grid of `size` x `size` regions, by the entropy of each."""
    entropy = patch_entropy(image, image.shape[1] // size, routing.entropy_bins)
    if routing.exact_ratio:
        return dynamic.exact_grain(entropy, dynamic.grain_counts(routing.ratios, size * size))
    return dynamic.threshold_grain(entropy, jnp.asarray(routing.thresholds, jnp.float32))


def _by_place(count: int, size: int) -> Int[Array, "b h w"]:
    """The same grains for each of `count` images: every other region of a grid of `size` x `size` is fine."""
    return jnp.broadcast_to(jnp.indices((size, size)).sum(0) % 2, (count, size, size))


def _by_logits(routing: RoutingConfig, logits: Float[Array, "b h w grains"]) -> Int[Array, "b h w"]:
    if routing.exact_ratio:
        counts = dynamic.grain_counts(routing.ratios, logits.shape[1] * logits.shape[2])
        return dynamic.exact_grain(dynamic.detail_score(logits), counts)
    return dynamic.first_best(logits)


def budget(routing: RoutingConfig, gate: Float[Array, "b h w grains"]) -> Float[Array, ""]:
    """The price of the batch's shares of finer regions, for a gate that is one-hot in value; 0 without a budget."""
    if not routing.budget_weight:
        return jnp.zeros(())
    if gate.shape[-1] == 2:
        return dynamic.dual_budget(gate, routing.ratios[0], routing.budget_weight)
    return dynamic.triple_budget(gate, routing.ratios[0], routing.ratios[1], routing.budget_weight)
