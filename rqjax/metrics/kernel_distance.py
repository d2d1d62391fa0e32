"""The kernel distance (KID, Binkowski et al. 2018): unbiased however few images there are."""

import numpy as np
from jaxtyping import Array, Float, Float64


def kernel_distance(
    made: Float[Array | np.ndarray, "n d"],
    real: Float[Array | np.ndarray, "m d"],
    *,
    subsets: int = 100,
    size: int = 1000,
    seed: int = 2020,
) -> tuple[float, float]:
    """The squared maximum mean discrepancy of subsets, unbiased, with the kernel (x.y / d + 1)^3: mean and deviation.

    Subsets of `size` are drawn without replacement, first of `made`, then of `real`, by numpy's RandomState(`seed`).
    Raises ValueError for sets smaller than a subset.
    """
    if min(len(made), len(real)) < size:
        raise ValueError(f"{len(made)} and {len(real)} features: subsets of {size} need as many of each")
    made, real = np.asarray(made, np.float64), np.asarray(real, np.float64)
    random = np.random.RandomState(seed)
    found = []
    for _ in range(subsets):
        x = made[random.choice(len(made), size, replace=False)]
        y = real[random.choice(len(real), size, replace=False)]
        found.append(_discrepancy(x, y))
    return float(np.mean(found)), float(np.std(found))


def _discrepancy(x: Float64[np.ndarray, "n d"], y: Float64[np.ndarray, "n d"]) -> float:
    """Lemma 6 of Gretton et al. (2012): pairs of a feature with itself are left out."""
    n = len(x)
    within = sum(kernel.sum() - np.trace(kernel) for kernel in (_kernel(x, x), _kernel(y, y)))
    return float(within / (n * (n - 1)) - 2 * _kernel(x, y).mean())


def _kernel(x: Float64[np.ndarray, "n d"], y: Float64[np.ndarray, "m d"]) -> Float64[np.ndarray, "n m"]:
    return (x @ y.T / x.shape[1] + 1) ** 3
