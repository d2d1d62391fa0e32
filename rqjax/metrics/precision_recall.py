"""Improved precision and recall (Kynkaanniemi et al. 2019): images inside the other set's neighbourhoods."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

ROWS = 256
"""Features compared at once: with 50,000 others their distances take 50 MB."""
HIGHEST = jax.lax.Precision.HIGHEST


def precision_recall(
    real: Float[Array | np.ndarray, "n d"], made: Float[Array | np.ndarray, "m d"], neighbours: int = 3
) -> tuple[float, float]:
    """The share of `made` within a neighbourhood of `real`, and of `real` within one of `made`: equations 1 and 2.

    The neighbourhood of a feature is the ball to its `neighbours`-th nearest among its own set. Raises ValueError for
    sets without so many.
    """
    if min(len(real), len(made)) <= neighbours:
        raise ValueError(f"{len(real)} and {len(made)} features: {neighbours} neighbours of each need more")
    # distances don't change, and their rounding, which grows with the squares of features, is least about the mean
    middle = np.mean(np.asarray(real, np.float64), axis=0)
    real, made = (jnp.asarray(np.asarray(x, np.float64) - middle, jnp.float32) for x in (real, made))
    precision = jnp.mean(_within(made, real, _radii(real, neighbours)).astype(jnp.float32))
    recall = jnp.mean(_within(real, made, _radii(made, neighbours)).astype(jnp.float32))
    return float(precision), float(recall)


def _squared_distances(x: Float[Array, "d"], others: Float[Array, "n d"], squares: Float[Array, "n"]) -> Array:
    return jnp.sum(jnp.square(x)) + squares - 2 * jnp.matmul(others, x, precision=HIGHEST)


def _radii(features: Float[Array, "n d"], neighbours: int) -> Float[Array, "n"]:
    """The squared distance of each feature to its k-th nearest; the nearest of all is itself."""
    squares = jnp.sum(jnp.square(features), axis=1)

    def of_one(x: Float[Array, "d"]) -> Float[Array, ""]:
        return -jax.lax.top_k(-_squared_distances(x, features, squares), neighbours + 1)[0][-1]

    return jax.lax.map(of_one, features, batch_size=ROWS)


def _within(features: Float[Array, "n d"], others: Float[Array, "m d"], radii: Float[Array, "m"]) -> Array:
    """Whether each feature lies within a ball of the others."""
    squares = jnp.sum(jnp.square(others), axis=1)
    return jax.lax.map(lambda x: jnp.any(_squared_distances(x, others, squares) <= radii), features, batch_size=ROWS)
