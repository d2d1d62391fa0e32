"""Means and covariances of features, summed batch by batch: exact whatever the batches and the mesh."""

import dataclasses
import pathlib

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Bool, Float, Float64


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """The mean and the covariance (divided by n - 1) of features: all that a Frechet distance reads."""

    mean: Float64[np.ndarray, "d"]
    covariance: Float64[np.ndarray, "d d"]


class Moments:
    """Sums of features and of their products, in float64 on the host.

    A float32 product has 48 bits at most and float64 holds 53, so products are exact, and a sum over n images errs by
    less than n 2**-53 of the sum of magnitudes: 6e-12 over 50,000. Features are computed wherever they lie; each
    process adds the rows that its own devices hold, and `of_all_processes` joins the sums at the end.
    """

    def __init__(self, dim: int):
        self.count = 0
        self.total = np.zeros(dim)
        self.products = np.zeros((dim, dim))

    def add(self, features: Float[Array | np.ndarray, "b d"], counts: Bool[Array | np.ndarray, "b"] | None = None):
        """Adds a batch; rows where `counts` is false fill up the batch, and count for nothing."""
        rows = own_rows(features).astype(np.float64)
        rows = rows if counts is None else rows[own_rows(counts)]
        self.count += len(rows)
        self.total += rows.sum(axis=0)
        self.products += rows.T @ rows

    def of_all_processes(self) -> "Moments":
        """The sums over all processes' rows; collective. Bytes travel, because JAX would round float64 on the way."""
        if jax.process_count() == 1:
            return self
        packed = np.concatenate([[float(self.count)], self.total, self.products.ravel()])
        gathered = multihost_utils.process_allgather(packed.view(np.uint32))
        return _unpacked(np.ascontiguousarray(gathered).view(np.float64).sum(axis=0), len(self.total))

    def gaussian(self) -> Gaussian:
        """Mean and covariance. Raises ValueError for fewer than two rows, which have no covariance."""
        if self.count < 2:
            raise ValueError(f"{self.count} rows of features: a covariance needs two or more")
        mean = self.total / self.count
        spread = self.products - self.count * np.outer(mean, mean)
        return Gaussian(mean, spread / (self.count - 1))


def _unpacked(packed: Float64[np.ndarray, "n"], dim: int) -> Moments:
    moments = Moments(dim)
    moments.count = round(packed[0])
    moments.total, moments.products = packed[1 : dim + 1], packed[dim + 1 :].reshape(dim, dim)
    return moments


def own_rows(x: Array | np.ndarray) -> np.ndarray:
    """The rows of an array that this process's devices hold, each once, in their order."""
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
        return np.asarray(x)
    parts = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])


def save_gaussians(path: pathlib.Path, features: Gaussian, spatial: Gaussian | None = None) -> None:
    """Writes statistics as the public evaluators keep them: `mu` and `sigma`, and for sFID `mu_s` and `sigma_s`."""
    arrays = {"mu": features.mean, "sigma": features.covariance}
    if spatial is not None:
        arrays |= {"mu_s": spatial.mean, "sigma_s": spatial.covariance}
    with open(path, "wb") as opened:
        np.savez(opened, allow_pickle=False, **arrays)


def load_gaussians(path: pathlib.Path) -> tuple[Gaussian, Gaussian | None]:
    """The statistics of such a file, and those for sFID if it has them. Raises ValueError for a file without any."""
    with np.load(path) as data:
        if not {"mu", "sigma"} <= set(data.files):
            raise ValueError(f"{path} holds {', '.join(data.files) or 'nothing'}: expected arrays mu and sigma")
        spatial = _gaussian(data["mu_s"], data["sigma_s"]) if {"mu_s", "sigma_s"} <= set(data.files) else None
        return _gaussian(data["mu"], data["sigma"]), spatial


def _gaussian(mean: np.ndarray, covariance: np.ndarray) -> Gaussian:
    return Gaussian(np.asarray(mean, np.float64), np.asarray(covariance, np.float64))
