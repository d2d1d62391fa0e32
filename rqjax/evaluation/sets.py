"""Sets of images as a judge sees them, collected batch by batch, and the figures that compare two of them."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Array, Bool, Float

from rqjax.evaluation.judges import Judge, Looked
from rqjax.metrics import Gaussian, Moments, frechet_distance, kernel_distance, mind, precision_recall
from rqjax.metrics.moments import own_rows

KEPT = 10_000
"""Real images whose features are kept, as in ADM's reference files: neighbourhoods and projections are of these."""
NEIGHBOURS, SUBSETS, SUBSET, DIRECTIONS, SEED = 3, 100, 1000, 1000, 2020
"""Of precision and recall; of the kernel distance; of the Monge distance; and of what the last two draw."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """All that figures read of real images."""

    count: int | None  # images in the Gaussians; None if a file does not say it
    gaussian: Gaussian
    spatial: Gaussian | None
    features: Float[np.ndarray, "n d"] | None  # of some of them
    about: Mapping[str, object]


class Collected:
    """Features of a set of images: Gaussians of all, in float64; the features and logits of the first `keep` or all."""

    def __init__(self, keep: int | None = None):
        self._keep, self._kept = keep, 0
        self._features: list[np.ndarray] = []
        self._logits: list[np.ndarray] = []
        self._moments: Moments | None = None
        self._spatial: Moments | None = None

    @property
    def count(self) -> int:
        """Images so far."""
        return 0 if self._moments is None else self._moments.count

    def add(self, looked: Looked, counts: Bool[Array | np.ndarray, "b"] | None = None) -> None:
        """Adds a batch; rows where `counts` is false fill it up, and count for nothing."""
        if self._moments is None:
            self._moments = Moments(looked.features.shape[1])
            self._spatial = None if looked.spatial is None else Moments(looked.spatial.shape[1])
        self._moments.add(looked.features, counts)
        if self._spatial is not None and looked.spatial is not None:
            self._spatial.add(looked.spatial, counts)
        chosen = slice(None) if counts is None else own_rows(counts)
        room = None if self._keep is None else max(self._keep - self._kept, 0)
        features = own_rows(looked.features)[chosen][:room]
        self._kept += len(features)
        self._features.append(features)
        self._logits.append(own_rows(looked.logits)[chosen][:room])

    @property
    def features(self) -> Float[np.ndarray, "n d"]:
        """Those that were kept."""
        return np.concatenate(self._features)

    @property
    def logits(self) -> Float[np.ndarray, "n k"]:
        """Those that were kept."""
        return np.concatenate(self._logits)

    def reference(self, about: Mapping[str, object]) -> Reference:
        """The set as real images. Raises ValueError for fewer than two."""
        assert self._moments is not None
        spatial = None if self._spatial is None else self._spatial.gaussian()
        return Reference(self.count, self._moments.gaussian(), spatial, self.features, about)


def compared(judge: Judge, made: Collected, real: Reference) -> dict[str, float]:
    """Made images against real ones: `frechet`, `spatial`, `score`, `kernel`, `precision`, `recall`, `monge`.

    Left out is what the judge has no features for, what a reference without features of single images cannot give, a
    score of fewer images than its parts, and precision and recall of fewer than NEIGHBOURS + 1.
    """
    own = made.reference({})
    figures = {"frechet": frechet_distance(own.gaussian, real.gaussian)}
    if own.spatial is not None and real.spatial is not None:
        figures["spatial"] = frechet_distance(own.spatial, real.spatial)
    if judge.score is not None and len(made.logits) >= judge.score.parts:
        figures["score"], figures["score_deviation"] = judge.score.of(made.logits)
    if real.features is None or own.features is None:
        return figures
    size = subset(len(own.features), len(real.features))
    whole = size == len(own.features) == len(real.features)  # every subset would be all of both sets
    figures["kernel"], figures["kernel_deviation"] = kernel_distance(
        own.features, real.features, subsets=1 if whole else SUBSETS, size=size, seed=SEED
    )
    figures["monge"] = mind(real.features, own.features, directions=DIRECTIONS, seed=SEED)
    if min(len(own.features), len(real.features)) > NEIGHBOURS:
        figures["precision"], figures["recall"] = precision_recall(real.features, own.features, NEIGHBOURS)
    return figures


def subset(made: int, real: int) -> int:
    """The images of a subset of the kernel distance: SUBSET, or as many as there are."""
    return min(SUBSET, made, real)


def settings() -> dict[str, object]:
    """The settings that decide the figures of `compared`, beside the images and the judge."""
    return {
        "neighbours": NEIGHBOURS,
        "kernel_subsets": SUBSETS,
        "kernel_subset_images": f"{SUBSET}, or all of a smaller set",
        "monge_directions": DIRECTIONS,
        "seed": SEED,
        "features_kept_of_real_images": KEPT,
    }
