"""Top-k and top-p: which codes may be drawn, found without sorting."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from rqjax.mesh import shards

Number = Float[Array, "..."] | float
Count = Int[Array, "..."] | int
Tested = tuple[Bool[Array, "*batch 1"], Bool[Array, "*batch 1"]]


def filter_logits(
    logits: Float[Array, "*batch vocab"], temperature: Number, top_k: Count, top_p: Number
) -> Float[Array, "*batch vocab"]:
    """Float32 logits divided by the temperature, -inf where top-k or top-p drops the token.

    In this order: divide; NaN becomes -inf; keep what is no smaller than the k-th largest (ties stay); of the
    probabilities renormalised over these, largest first, drop a token if those before it sum to p or more. At least one
    token stays. `top_k` >= vocab and `top_p` >= 1 change nothing. The three settings broadcast against the batch axes.
    Temperature is above 0 here. Equal logits rank by index, lowest first.

    Nothing is sorted: a logit between the last that is kept and the first that is dropped is found bit by bit among all
    numbers of 32 bits, with a sum over the vocabulary for each bit, until it lies between them in all rows.
    """
    scaled = without_nan(logits.astype(jnp.float32) / jnp.asarray(temperature)[..., None])
    top_k, top_p = jnp.clip(jnp.asarray(top_k), 1, logits.shape[-1]), jnp.asarray(top_p, jnp.float32)
    top_p = jnp.where(top_p < 1, jnp.maximum(top_p, jnp.finfo(jnp.float32).tiny), jnp.inf)
    for wanted, within, setting in (
        (jnp.any(top_k < logits.shape[-1]), _within_top_k, top_k),
        (jnp.any(top_p < 1), _within_top_p, top_p),
    ):
        kept = jax.lax.cond(wanted, within, lambda x, _: jnp.ones_like(x, bool), scaled, setting)
        scaled = jnp.where(kept, scaled, -jnp.inf)
    return scaled


def without_nan(logits: Float[Array, "..."]) -> Float[Array, "..."]:
    """The logits with -inf for NaN, which is never drawn."""
    return jnp.where(jnp.isnan(logits), -jnp.inf, logits)


def _within_top_k(logits: Float[Array, "*batch vocab"], top_k: Int[Array, "..."]) -> Bool[Array, "*batch vocab"]:
    """Whether each logit is no smaller than the k-th largest."""
    ranks = _ranks(logits)

    def test(value: Array) -> Tested:
        count = _sum(ranks >= value, 1.0)  # float32, which the CPU's compiler sums faster, has all numbers to 2^24
        return count >= top_k[..., None], count == top_k[..., None]

    return ranks >= _largest(test, 32, jnp.zeros_like(ranks[..., :1], bool))


def _within_top_p(logits: Float[Array, "*batch vocab"], top_p: Float[Array, "..."]) -> Bool[Array, "*batch vocab"]:
    """Whether the probabilities ahead of each logit sum to less than p: larger ones, and equal ones of lower index."""
    ranks, top_p, every = _ranks(logits), top_p[..., None], jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    probability = jnp.exp(logits - every)

    def test(value: Array) -> Tested:
        mass = _sum(ranks >= value, probability)
        least = jnp.exp(_of_rank(value) - every)  # no logit from this value on has less
        return mass >= top_p, mass - least < top_p  # so that none of them can be left out

    edge = _largest(test, 32, jnp.zeros_like(ranks[..., :1], bool))
    larger, equal = ranks > edge, ranks == edge
    each = jnp.max(jnp.where(equal, probability, 0), axis=-1, keepdims=True)
    most = jnp.maximum(jnp.ceil((top_p - _sum(larger, probability)) / each), 1)  # of those equal to the edge
    all_of_them = _sum(equal, 1.0) <= most
    index = jnp.arange(logits.shape[-1], dtype=jnp.uint32)

    def few(value: Array) -> Tested:
        count = _sum(equal & (index < value), 1.0)
        return count <= most, count == most

    end = _largest(few, logits.shape[-1].bit_length(), all_of_them)
    return larger | (equal & (all_of_them | (index < end)))


def _sum(chosen: Bool[Array, "*batch vocab"], of: Array | float) -> Float[Array, "*batch 1"]:
    return jnp.sum(jnp.where(chosen, of, 0.0), axis=-1, keepdims=True)


def _ranks(x: Float[Array, "*batch vocab"]) -> UInt32[Array, "*batch vocab"]:
    """Numbers in the order of float32 ones: their bits, with the sign's turned, or all turned where it is set."""
    bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x), jnp.uint32)  # -0.0 equals 0.0
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _of_rank(ranks: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """The float32 number of a rank."""
    bits = jnp.where(ranks >> 31 == 1, ranks & jnp.uint32(2**31 - 1), ~ranks)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def _largest(
    test: Callable[[UInt32[Array, "*batch 1"]], Tested], bits: int, settled: Bool[Array, "*batch 1"]
) -> UInt32[Array, "*batch 1"]:
    """For each row the largest number of so many bits that passes the test, which smaller ones pass and larger ones do
    not; 0 if none does.

    The test also says whether a number that passes is good enough. It is the one then, and rows that are settled are
    looked at no more. With all of them the search ends. A mesh that splits rows takes all steps: its devices would have
    to ask each other at each.
    """
    alone = shards(jax.sharding.get_abstract_mesh()) == 1

    def going(carry: tuple[Array, Array, Array]) -> Bool[Array, ""]:
        i, _, settled = carry
        return (i < bits) & ~jnp.all(settled) if alone else i < bits

    def try_bit(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        i, found, settled = carry
        candidate = found | (jnp.uint32(1) << (bits - 1 - i).astype(jnp.uint32))
        passes, enough = test(candidate)
        passes = passes & ~settled
        return i + 1, jnp.where(passes, candidate, found), settled | (passes & enough)

    return jax.lax.while_loop(going, try_bit, (jnp.int32(0), jnp.zeros_like(settled, jnp.uint32), settled))[1]
