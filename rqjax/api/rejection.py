"""Rejection sampling: of the images that a prior draws, those stay that a scorer thinks most of.

The published figures in brackets are made so: of each class 1 / acceptance times as many images are drawn as wanted,
and those that a classifier is surest of stay. As many stay of every class, so the classes keep their balance.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int, UInt8

from rqjax.api.classifier import LoadedClassifier
from rqjax.errors import InputError
from rqjax.interface import PriorConfig

ACCEPTANCE = 0.25
"""The share of drawn images that stays, if nobody says another."""
LEAST = 0.001


Scorer: TypeAlias = Callable[[UInt8[np.ndarray, "n h w 3"], Int[np.ndarray, "n ..."]], Any]
"""How well images fit what they were drawn for, a number for each image, the larger the better: a classifier from
rqjax.load, or any function, as an image-text score. It is given the images and their labels [n], or the token ids
[n length] of their texts."""


@dataclasses.dataclass(frozen=True)
class Rejection:
    """How many images are drawn for those that stay, and by which score these are chosen."""

    scorer: Scorer
    acceptance: float = ACCEPTANCE

    @classmethod
    def checked(
        cls,
        scorer: Any,
        acceptance: float | None,
        prior: PriorConfig,
        classes: tuple[str, ...],
        resolution: Callable[[], int],
    ) -> "Rejection | None":
        """For a prior's images; None without a scorer. Raises InputError for a scorer that cannot judge them."""
        share = ACCEPTANCE if acceptance is None else acceptance
        if scorer is None and acceptance is not None:
            raise InputError(
                f"acceptance is {acceptance}, and there is no scorer to choose the images by: pass scorer="
            )
        if isinstance(share, bool) or not isinstance(share, int | float) or not LEAST <= share <= 1:
            raise InputError(f"acceptance is {share!r}: expected the share of images that stays, from {LEAST} to 1")
        if scorer is None:
            return None
        if isinstance(scorer, LoadedClassifier):
            _check_classifier(scorer, prior, classes, resolution())
        if not callable(scorer):
            raise InputError(
                f"the scorer is a {type(scorer).__name__}: expected a classifier from rqjax.load, or a function of"
                " images and their labels"
            )
        return cls(scorer, float(share))

    def candidates(self, groups: Int[np.ndarray, "n"]) -> Int[np.ndarray, "candidates"]:
        """For each image to be drawn, the place in `groups` of one that it may become."""
        _, first, counts = np.unique(groups, return_index=True, return_counts=True)
        drawn = [math.ceil(round(count / self.acceptance, 6)) for count in counts]  # 0.1 is no tenth in binary
        return np.repeat(first, drawn)

    def scores(self, images: UInt8[np.ndarray, "n h w 3"], values: Int[np.ndarray, "n ..."]) -> Float[np.ndarray, "n"]:
        """The scorer's, looked at. Raises InputError for others than a finite number for each image."""
        scores = np.asarray(self.scorer(images, values))
        if scores.shape != (len(images),) or not np.issubdtype(scores.dtype, np.number):
            raise InputError(
                f"the scorer gave {scores.dtype} of shape {scores.shape} for {len(images)} images: expected a number"
                " for each"
            )
        scores = scores.astype(np.float64)
        if np.isnan(scores).any():
            raise InputError("the scorer gave NaN for an image: expected numbers, the larger the better")
        return scores


def best(
    scores: Iterable[float], groups: Int[np.ndarray, "n"], wanted: Int[np.ndarray, "kept"]
) -> Int[np.ndarray, "found"]:
    """The places of the best images of each group, as many as `wanted` names it, the best first; of equal ones the
    earlier. Groups keep their order in `wanted`, and stay smaller where they have fewer images.
    """
    order = np.lexsort((-np.asarray(scores), groups))
    named = dict.fromkeys(wanted.tolist())
    return np.concatenate([order[groups[order] == group][: np.sum(wanted == group)] for group in named])


def _check_classifier(scorer: LoadedClassifier, prior: PriorConfig, classes: tuple[str, ...], resolution: int) -> None:
    """Raises InputError unless a model judges images of the prior's size and classes."""
    path, known = scorer.run.path, scorer.known
    if prior.condition.field != "label":
        raise InputError(
            "the scorer is a classifier, and this prior knows no classes: pass a function of images and their texts"
        )
    if known != prior.condition.choices:
        raise InputError(
            f"the scorer {path} knows {known} classes and this prior {prior.condition.choices}: expected as many"
        )
    if scorer.classes and classes and scorer.classes != classes:
        raise InputError(f"the scorer {path} was trained on other classes than this prior: their names differ")
    if scorer.resolution != resolution:
        raise InputError(
            f"the scorer {path} was trained on images of {scorer.resolution} pixels, and this prior's have {resolution}"
        )
