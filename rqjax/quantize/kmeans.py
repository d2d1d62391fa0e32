"""Lloyd's algorithm: centres of clusters of vectors."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rqjax.quantize.distance import nearest
from rqjax.quantize.gradient import unit

ITERATIONS = 10


def kmeans(
    x: Float[Array, "n dim"], centres: Float[Array, "codes dim"], normalize: bool
) -> tuple[Float[Array, "codes dim"], Float[Array, "codes"]]:
    """Centres after ten rounds from `centres` on, and the number of vectors of each; those of length 1 if `normalize`.

    A centre that no vector is nearest to stays where it is.
    """

    def around(centres: Array) -> tuple[Array, Array]:
        found = nearest(centres, x)
        hits = jax.ops.segment_sum(jnp.ones(found.shape, jnp.float32), found, centres.shape[0])
        return jax.ops.segment_sum(x, found, centres.shape[0]), hits

    def improve(_: Array, centres: Array) -> Array:
        sums, hits = around(centres)
        means = jnp.where(hits[:, None] > 0, sums / jnp.maximum(hits, 1)[:, None], centres)
        return unit(means) if normalize else means

    centres = jax.lax.fori_loop(0, ITERATIONS, improve, centres)
    return centres, around(centres)[1]
