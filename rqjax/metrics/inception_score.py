"""The Inception Score (Salimans et al. 2016): how sure a classifier is of each image, and how unlike images are."""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float, Float64


def inception_score(
    logits: Float[Array | np.ndarray, "n k"],
    edges: Sequence[int],
    *,
    seed: int | None = None,
    unbiased: bool = False,
) -> tuple[float, float]:
    """exp(mean KL(p(y|x), p(y))) of each part of the images, section 4: its mean and standard deviation over the parts.

    `edges` are the rows where parts begin and end (`equal_parts`, `parts_of`). With a `seed` the images are shuffled
    first, as numpy's RandomState does. The deviation is divided by the number of parts, or if `unbiased` by one less.
    Logits with the last layer's bias and without it give different scores: say which with the number.
    """
    rows = np.asarray(logits)
    rows = rows if seed is None else rows[np.random.RandomState(seed).permutation(len(rows))]
    scores = [_score(rows[start:stop].astype(np.float64)) for start, stop in itertools.pairwise(edges)]
    return float(np.mean(scores)), float(np.std(scores, ddof=int(unbiased)))


def equal_parts(count: int, parts: int) -> list[int]:
    """The edges of `parts` parts of `count` images, as equal as they can be (torch-fidelity: 10)."""
    return [i * count // parts for i in range(parts + 1)]


def parts_of(count: int, size: int) -> list[int]:
    """The edges of parts of `size` images; what is left over is a part too (ADM: 5,000)."""
    return [*range(0, count, size), count]


def _score(logits: Float64[np.ndarray, "n k"]) -> float:
    logs = _log_softmax(logits)
    shares = np.exp(logs)
    marginal = np.log(shares.mean(axis=0))
    return float(np.exp(np.mean(np.sum(shares * (logs - marginal), axis=1))))


def _log_softmax(logits: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, "n k"]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=1, keepdims=True))
