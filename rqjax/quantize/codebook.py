"""One codebook: nearest codes, moving averages of what fell on each code, restarts of codes that nothing fell on."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

SMOOTHING = 1e-5
"""Pseudo-count added to every code when counts become means."""
JITTER = 0.01
"""Width of the noise that tells copies of one candidate apart, in units of 1/sqrt(dim)."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Codebook:
    """Code vectors and the moving averages that they are computed from; float32, never reached by a gradient."""

    embed: Any  # [codes dim], the vectors
    count: Any  # [codes], moving average of the hits of each code per update
    total: Any  # [codes dim], moving average of the sum of the vectors that hit it

    @property
    def size(self) -> int:
        return self.embed.shape[0]

    @property
    def dim(self) -> int:
        return self.embed.shape[1]


def init_codebook(key: Key[Array, ""], codes: int, dim: int) -> Codebook:
    """A codebook of N(0, 1) vectors that nothing has hit yet."""
    embed = jax.random.normal(key, (codes, dim))
    # a real copy: a donated state must not hold one buffer twice
    return Codebook(embed=embed, count=jnp.zeros(codes), total=jnp.array(embed, copy=True))


def distances(embed: Float[Array, "codes dim"], x: Float[Array, "n dim"]) -> Float[Array, "n codes"]:
    """Squared distances of every vector to every code, in float32 at the highest precision: near-ties decide codes."""
    embed, x = embed.astype(jnp.float32), x.astype(jnp.float32)
    products = jnp.matmul(x, embed.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(x**2, axis=1, keepdims=True) + jnp.sum(embed**2, axis=1) - 2 * products


def nearest(embed: Float[Array, "codes dim"], x: Float[Array, "n dim"]) -> Int[Array, "n"]:
    """The nearest code of every vector; of equally near ones the lowest."""
    return jnp.argmin(distances(embed, x), axis=1).astype(jnp.int32)


def accumulate(
    codebook: Codebook, x: Float[Array, "n dim"], codes: Int[Array, "n"], decay: float
) -> tuple[Float[Array, "codes"], Float[Array, "codes dim"]]:
    """The averages (count, total) after the batch `x` fell on `codes`.

    Under jit with x split over a mesh these are sums over the whole batch. Sums are by segment: a one-hot matrix of
    8192 vectors and 16384 codes would take 512 MiB.
    """
    hits = jax.ops.segment_sum(jnp.ones(codes.shape, jnp.float32), codes, codebook.size)
    sums = jax.ops.segment_sum(x.astype(jnp.float32), codes, codebook.size)
    return decay * codebook.count + (1 - decay) * hits, decay * codebook.total + (1 - decay) * sums


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


def restart(
    count: Float[Array, "codes"],
    total: Float[Array, "codes dim"],
    x: Float[Array, "n dim"],
    key: Key[Array, ""],
    threshold: float,
) -> tuple[Float[Array, "codes"], Float[Array, "codes dim"], Float[Array, ""]]:
    """The averages (count, total) with every code under `threshold` hits moved onto a vector of the batch.

    Such a code starts again with a count of 1. The third result is the fraction of codes that did.
    Candidates come from the whole batch with one key, so every device moves the same codes to the same places.
    """
    # a code hit once since it restarted counts exactly 1: rounding must not decide over it
    unused = count < threshold * (1 - 1e-6)
    fresh = candidates(key, x.astype(jnp.float32), count.shape[0])
    return jnp.where(unused, 1.0, count), jnp.where(unused[:, None], fresh, total), jnp.mean(unused.astype(jnp.float32))


def refresh(count: Float[Array, "codes"], total: Float[Array, "codes dim"]) -> Codebook:
    """The codebook whose vectors are the means total / count, with counts smoothed as Laplace would."""
    hits = jnp.sum(count)
    smooth = hits * (count + SMOOTHING) / (hits + count.shape[0] * SMOOTHING)
    return Codebook(embed=total / smooth[:, None], count=count, total=total)


def update(
    codebook: Codebook,
    x: Float[Array, "n dim"],
    codes: Int[Array, "n"],
    key: Key[Array, ""],
    decay: float,
    restart_threshold: float | None,
) -> tuple[Codebook, Float[Array, ""]]:
    """The codebook after the batch `x` fell on `codes`, and the fraction of its codes that were restarted.

    Look the batch's vectors up in the codebook from before. `restart_threshold` None or 0 turns restarts off.
    """
    x = jax.lax.stop_gradient(x)
    count, total = accumulate(codebook, x, codes, decay)
    restarted = jnp.zeros(())
    if restart_threshold:
        count, total, restarted = restart(count, total, x, key, restart_threshold)
    return refresh(count, total), restarted


def histogram(codes: Int[Array, "..."], size: int) -> Float[Array, "size"]:
    """The share of `codes` that each code has; sums to 1."""
    hits = jax.ops.segment_sum(jnp.ones(codes.size, jnp.float32), codes.reshape(-1), size)
    return hits / max(codes.size, 1)


def usage(codes: Int[Array, "..."], size: int) -> Float[Array, ""]:
    """The fraction of the book that occurs among `codes`, in [0, 1]."""
    return jnp.mean((histogram(codes, size) > 0).astype(jnp.float32))


def usage_entropy(codes: Int[Array, "..."], size: int) -> Float[Array, ""]:
    """The entropy in nats of how often each code occurs, from 0 to log(size)."""
    share = histogram(codes, size)
    return -jnp.sum(share * jnp.log(share + 1e-10))


def perplexity(codes: Int[Array, "..."], size: int) -> Float[Array, ""]:
    """The number of equally frequent codes with the same entropy, from 1 to `size`."""
    return jnp.exp(usage_entropy(codes, size))
