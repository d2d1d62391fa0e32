"""Logits to tokens: temperature, top-k, top-p and the draw; settings are arrays, so changing them compiles nothing."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from rqjax.errors import InputError
from rqjax.nets.partition import by_batch

Number = Float[Array, "..."] | float
Count = Int[Array, "..."] | int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draw:
    """How the codes of one stream (a depth of RQ; the contents or the positions of DQ) are drawn."""

    temperature: float = 1.0  # 0 takes the likeliest
    top_k: int = 0  # the k likeliest codes; 0 keeps all
    top_p: float = 1.0  # the likeliest codes that hold this probability; 1 keeps all

    def check(self, stream: str) -> None:
        """Raises InputError for values that cannot be used, naming the stream."""
        if not self.temperature >= 0:
            raise InputError(f"temperature of {stream} is {self.temperature}: expected 0 (greedy) or more")
        if not 0 <= self.top_k < 2**31:
            raise InputError(f"top_k of {stream} is {self.top_k}: expected at least 1, or 0 to keep every code")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p of {stream} is {self.top_p}: expected a number above 0, up to 1")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draws:
    """The settings of all streams as arrays, so that new ones compile nothing."""

    temperature: Float[Array, "streams"]
    top_k: Int[Array, "streams"]
    top_p: Float[Array, "streams"]

    def draw(
        self, stream: Int[Array, ""] | int, keys: Key[Array, "b"], logits: Float[Array, "b vocab"]
    ) -> Int[Array, "b"]:
        """One code for each row, with a key of its own, so that it does not depend on the other rows."""
        logits = by_batch(logits)  # rows are whole, or each sum of the filters would cross a model axis

        def one(key: Key[Array, ""], logits: Float[Array, "vocab"]) -> Int[Array, ""]:
            return sample(key, logits, self.temperature[stream], self.top_k[stream], self.top_p[stream])

        return jax.vmap(one)(keys, logits)


def draws_of(draws: Draw | Sequence[Draw], streams: Sequence[str]) -> Draws:
    """Arrays of one Draw for each of `streams`; a single one serves all. Raises InputError for values out of range."""
    each = [draws] * len(streams) if isinstance(draws, Draw) else list(draws)
    if len(each) == 1:
        each *= len(streams)
    if len(each) != len(streams):
        raise InputError(f"{len(each)} settings of sampling: give one, or one for each of {', '.join(streams)}")
    for draw, stream in zip(each, streams, strict=True):
        draw.check(stream)
    everything = np.iinfo(np.int32).max
    return Draws(
        temperature=jnp.asarray([draw.temperature for draw in each], jnp.float32),
        top_k=jnp.asarray([draw.top_k or everything for draw in each], jnp.int32),
        top_p=jnp.asarray([draw.top_p for draw in each], jnp.float32),
    )


def row_keys(key: Key[Array, ""] | Key[Array, "b"], rows: int, first: int = 0) -> Key[Array, "b"]:
    """A key for each of `rows` rows from the place `first` on, a function of `key` and its place alone, however many
    there are; or `key` itself, if there is one for each row already.
    """
    if key.ndim:
        return key
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, first + jnp.arange(rows))


def filter_logits(
    logits: Float[Array, "*batch vocab"], temperature: Number, top_k: Count, top_p: Number
) -> Float[Array, "*batch vocab"]:
    """Float32 logits divided by the temperature, -inf where top-k or top-p drops the token.

    In this order: divide; NaN becomes -inf; keep what is no smaller than the k-th largest (ties stay); of the
    probabilities renormalised over these, largest first, drop a token if those before it sum to p or more. At least one
    token stays. `top_k` >= vocab and `top_p` >= 1 change nothing. The three settings broadcast against the batch axes.
    Temperature is above 0 here. Equal logits rank by index, lowest first.

    Nothing is sorted: the k-th largest logit, and the one at which the probabilities reach p, are found bit by bit
    among all numbers of 32 bits, with a sum over the vocabulary for each bit.
    """
    scaled = logits.astype(jnp.float32) / jnp.asarray(temperature)[..., None]
    scaled = jnp.where(jnp.isnan(scaled), -jnp.inf, scaled)
    top_k, top_p = jnp.clip(jnp.asarray(top_k), 1, logits.shape[-1]), jnp.asarray(top_p, jnp.float32)
    top_p = jnp.where(top_p < 1, jnp.maximum(top_p, jnp.finfo(jnp.float32).tiny), jnp.inf)
    for wanted, within, setting in (
        (jnp.any(top_k < logits.shape[-1]), _within_top_k, top_k),
        (jnp.any(top_p < 1), _within_top_p, top_p),
    ):
        kept = jax.lax.cond(wanted, within, lambda x, _: jnp.ones_like(x, bool), scaled, setting)
        scaled = jnp.where(kept, scaled, -jnp.inf)
    return scaled


def sample(
    key: Key[Array, ""], logits: Float[Array, "*batch vocab"], temperature: Number, top_k: Count, top_p: Number
) -> Int[Array, "*batch"]:
    """Tokens drawn from the filtered logits; where the temperature is 0, the largest logit (the first of equals)."""
    temperature = jnp.asarray(temperature, jnp.float32)
    greedy = temperature == 0
    filtered = filter_logits(logits, jnp.where(greedy, 1.0, temperature), top_k, top_p)
    drawn = jnp.where(greedy, jnp.argmax(filtered, axis=-1), jax.random.categorical(key, filtered))
    return drawn.astype(jnp.int32)


def _within_top_k(logits: Float[Array, "*batch vocab"], top_k: Int[Array, "..."]) -> Bool[Array, "*batch vocab"]:
    """Whether each logit is no smaller than the k-th largest."""
    ranks = _ranks(logits)
    kth = _largest(lambda value: jnp.sum(ranks >= value, axis=-1, keepdims=True) >= top_k[..., None], ranks)
    return ranks >= kth


def _within_top_p(logits: Float[Array, "*batch vocab"], top_p: Float[Array, "..."]) -> Bool[Array, "*batch vocab"]:
    """Whether the probabilities ahead of each logit sum to less than p: larger ones, and equal ones of lower index."""
    ranks, probability, top_p = _ranks(logits), jax.nn.softmax(logits, axis=-1), top_p[..., None]

    def mass(chosen: Bool[Array, "*batch vocab"]) -> Float[Array, "*batch 1"]:
        return jnp.sum(jnp.where(chosen, probability, 0), axis=-1, keepdims=True)

    edge = _largest(lambda value: mass(ranks >= value) >= top_p, ranks)
    larger, equal = ranks > edge, ranks == edge
    each = jnp.max(jnp.where(equal, probability, 0), axis=-1, keepdims=True)
    most = jnp.maximum(jnp.ceil((top_p - mass(larger)) / each), 1)  # of those equal to the edge
    index = jnp.arange(logits.shape[-1], dtype=jnp.uint32)
    end = _largest(lambda value: jnp.sum(equal & (index < value), axis=-1, keepdims=True) <= most, ranks)
    return larger | (equal & (index < end))


def _ranks(x: Float[Array, "*batch vocab"]) -> UInt32[Array, "*batch vocab"]:
    """Numbers in the order of float32 ones: their bits, with the sign's turned, or all turned where it is set."""
    bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x), jnp.uint32)  # -0.0 equals 0.0
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _largest(holds: Callable[[Array], Array], like: UInt32[Array, "*batch vocab"]) -> UInt32[Array, "*batch 1"]:
    """For each row the largest number that `holds`, true up to some number and false above it; 0 if none does."""

    def try_bit(i: Int[Array, ""], found: Array) -> Array:
        candidate = found | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
        return jnp.where(holds(candidate), candidate, found)

    return jax.lax.fori_loop(0, 32, try_bit, jnp.zeros((*like.shape[:-1], 1), jnp.uint32))
