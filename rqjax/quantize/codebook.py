"""One codebook: moving averages of the vectors that fall on each code, and restarts of codes that none falls on."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from rqjax.quantize.distance import nearest
from rqjax.quantize.gradient import unit
from rqjax.quantize.pytree import pytree, static
from rqjax.quantize.residual import Book

SMOOTHING = 1e-5
"""Pseudo-count added to every code when counts become means."""
JITTER = 0.01
"""Width of the noise that tells copies of one candidate apart, in units of 1/sqrt(dim)."""
ROUNDS = 10
"""Of Lloyd's algorithm."""


@pytree
@dataclasses.dataclass(frozen=True)
class Codebook(Book):
    """Code vectors and the moving averages that they are computed from; float32, never reached by a gradient.

    Its settings are those of RQ-VAE by default: a code whose average count of vectors falls under `restart_threshold`
    moves onto a vector of the batch (0: never). With `normalize`, vectors and codes have length 1, so that the nearest
    code is that of the smallest angle. With start "kmeans" the first batch in training makes the codes.
    """

    embed: Float[Array, "codes dim"]  # the vectors
    count: Float[Array, "codes"]  # moving average of the hits of each code per update
    total: Float[Array, "codes dim"]  # moving average of the sum of the vectors that hit it
    padding: Float[Array, "dim"] | None = None  # official files hold it behind the last code; never looked up. None: 0
    decay: float = static(0.99)
    restart_threshold: float = static(1.0)
    commitment_weight: float = static(0.25)
    normalize: bool = static(False)
    start: str = static("normal")

    def __post_init__(self) -> None:
        if self.padding is None:  # jit and eval_shape see the same leaves, whoever made the book
            object.__setattr__(self, "padding", jnp.zeros(self.embed.shape[1]))

    @property
    def table(self) -> Float[Array, "codes dim"]:
        return self.embed

    def project(self, z: Float[Array, "*grid dim"]) -> Float[Array, "*grid dim"]:
        return unit(z) if self.normalize else z

    def begin(self, x: Float[Array, "n dim"], key: Key[Array, ""]) -> "Codebook":
        """The codebook that the batch `x` is searched in: clusters of it, if nothing has hit a code ever."""
        if self.start != "kmeans":
            return self

        def clustered() -> Codebook:
            centres, hits = kmeans(x, candidates(key, x, self.size), self.normalize)
            count = jnp.maximum(hits, 1.0)  # as of codes that restart
            return dataclasses.replace(self, embed=centres, count=count, total=centres * count[:, None])

        return jax.lax.cond(jnp.any(self.count > 0), lambda: self, clustered)

    def learn(
        self, x: Float[Array, "n dim"], codes: Int[Array, "n"], key: Key[Array, ""]
    ) -> tuple["Codebook", Float[Array, ""]]:
        """The codebook after the batch `x` fell on `codes`, and the share of its codes that were restarted.

        Look the batch's vectors up in the codebook from before. Under jit with x split over a mesh, sums are over the
        whole batch. They are by segment: a one-hot matrix of 8192 vectors and 16384 codes would take 512 MiB.
        """
        x = jax.lax.stop_gradient(x)
        hits = jax.ops.segment_sum(jnp.ones(codes.shape, jnp.float32), codes, self.size)
        sums = jax.ops.segment_sum(x.astype(jnp.float32), codes, self.size)
        count = self.decay * self.count + (1 - self.decay) * hits
        total = self.decay * self.total + (1 - self.decay) * sums
        restarted = jnp.zeros(())
        if self.restart_threshold:
            # a code hit once since it restarted counts exactly 1: rounding must not decide over it
            unused = count < self.restart_threshold * (1 - 1e-6)
            # from the whole batch with one key, so every device moves the same codes to the same places
            fresh = candidates(key, x.astype(jnp.float32), self.size)
            count, total = jnp.where(unused, 1.0, count), jnp.where(unused[:, None], fresh, total)
            restarted = jnp.mean(unused.astype(jnp.float32))
        return self.with_averages(count, total), restarted

    def with_averages(self, count: Float[Array, "codes"], total: Float[Array, "codes dim"]) -> "Codebook":
        """The codebook whose vectors are the means total / count, with counts smoothed as Laplace would."""
        hits = jnp.sum(count)
        smooth = hits * (count + SMOOTHING) / (hits + self.size * SMOOTHING)
        return dataclasses.replace(self, embed=self.project(total / smooth[:, None]), count=count, total=total)


def init_codebook(
    key: Key[Array, ""],
    codes: int,
    dim: int,
    *,
    decay: float = 0.99,
    restart_threshold: float = 1.0,
    commitment_weight: float = 0.25,
    normalize: bool = False,
    start: str = "normal",
) -> Codebook:
    """A codebook of N(0, 1) vectors, of directions drawn evenly if `normalize`, that nothing has hit yet."""
    embed = jax.random.normal(key, (codes, dim))
    embed = unit(embed) if normalize else embed
    return Codebook(
        embed=embed,
        count=jnp.zeros(codes),
        total=jnp.array(embed, copy=True),  # a real copy: a donated state must not hold one buffer twice
        decay=decay,
        restart_threshold=restart_threshold,
        commitment_weight=commitment_weight,
        normalize=normalize,
        start=start,
    )


def candidates(key: Key[Array, ""], x: Float[Array, "n dim"], count: int) -> Float[Array, "count dim"]:
    """`count` vectors drawn from the batch without repetition; from a smaller batch, repeated with noise added.

    The noise is U[0, 1) * 0.01 / sqrt(dim), not centred, as in the reference.
    """
    n, dim = x.shape
    choose, shake = jax.random.split(key)
    copies = math.ceil(count / n)
    drawn = x[jax.random.permutation(choose, copies * n)[:count] % n]
    if copies == 1:
        return drawn
    return drawn + jax.random.uniform(shake, drawn.shape) * (JITTER / math.sqrt(dim))


def kmeans(
    x: Float[Array, "n dim"], centres: Float[Array, "codes dim"], normalize: bool
) -> tuple[Float[Array, "codes dim"], Float[Array, "codes"]]:
    """Centres after Lloyd's rounds from `centres` on, and the number of vectors of each; of length 1 if `normalize`.

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

    centres = jax.lax.fori_loop(0, ROUNDS, improve, centres)
    return centres, around(centres)[1]
