"""The Frechet distance of two Gaussians (Heusel et al. 2017): FID, sFID, rFID, by whatever features they are of."""

import numpy as np
from jaxtyping import Float64

from rqjax.metrics.moments import Gaussian


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)), equation 6; A and B are the covariances.

    A B has the eigenvalues of A^(1/2) B A^(1/2), which is symmetric: they are real and none is negative, also where a
    covariance is singular, as it is with fewer images than features. Raises ValueError for unlike numbers of features.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"Gaussians of {len(a.mean)} and {len(b.mean)} features have no distance")
    root = _square_root(a.covariance)
    squares = np.linalg.eigvalsh(_symmetric(root @ b.covariance @ root))
    overlap = np.sum(np.sqrt(np.maximum(squares, 0)))
    difference = np.sum(np.square(a.mean - b.mean))
    return float(difference + np.trace(a.covariance) + np.trace(b.covariance) - 2 * overlap)


def _square_root(matrix: Float64[np.ndarray, "d d"]) -> Float64[np.ndarray, "d d"]:
    values, vectors = np.linalg.eigh(_symmetric(matrix))
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _symmetric(matrix: Float64[np.ndarray, "d d"]) -> Float64[np.ndarray, "d d"]:
    """The symmetric part: what rounding made unlike on both sides of the diagonal is averaged."""
    return (matrix + matrix.T) / 2
