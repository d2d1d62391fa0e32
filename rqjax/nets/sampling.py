"""Logits to tokens: temperature, top-k, top-p and the draw; settings are arrays, so changing them compiles nothing."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from rqjax.errors import InputError

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
        if self.top_k < 0:
            raise InputError(f"top_k of {stream} is {self.top_k}: expected at least 1, or 0 to keep every code")
        if not self.top_p > 0:
            raise InputError(f"top_p of {stream} is {self.top_p}: expected a number above 0, up to 1")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draws:
    """The settings of all streams as arrays, so that new ones compile nothing."""

    temperature: Float[Array, "streams"]
    top_k: Int[Array, "streams"]
    top_p: Float[Array, "streams"]

    def draw(self, stream: int, keys: Key[Array, "b"], logits: Float[Array, "b vocab"]) -> Int[Array, "b"]:
        """One code for each row, with a key of its own, so that it does not depend on the other rows."""

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


def row_keys(key: Key[Array, ""], rows: int) -> Key[Array, "b"]:
    """A key for each row that is a function of `key` and its place alone, however many rows there are."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(rows))


def sample(
    key: Key[Array, ""], logits: Float[Array, "*batch vocab"], temperature: Number, top_k: Count, top_p: Number
) -> Int[Array, "*batch"]:
    """Tokens drawn from the filtered logits; where the temperature is 0, the largest logit (the first of equals)."""
    temperature = jnp.asarray(temperature, jnp.float32)
    greedy = temperature == 0
    ranked, order = ranked_logits(logits, jnp.where(greedy, 1.0, temperature), top_k, top_p)
    rank = jnp.where(greedy, 0, jax.random.categorical(key, ranked))
    return jnp.take_along_axis(order, rank[..., None], axis=-1)[..., 0].astype(jnp.int32)


def ranked_logits(
    logits: Float[Array, "*batch vocab"], temperature: Number, top_k: Count, top_p: Number
) -> tuple[Float[Array, "*batch vocab"], Int[Array, "*batch vocab"]]:
    """Float32 logits over the temperature from the largest down, -inf where top-k or top-p drops it, and their tokens.

    In this order: divide; NaN becomes -inf; keep what is no smaller than the k-th largest (ties stay); of the
    probabilities renormalised over these, largest first, drop a token if those before it sum to p or more. At least one
    token stays. `top_k` >= vocab and `top_p` >= 1 change nothing. The three settings broadcast against the batch axes.
    Temperature is above 0 here. Equal logits rank by index, lowest first. One sort serves both filters.
    """
    logits = logits.astype(jnp.float32) / jnp.asarray(temperature)[..., None]
    logits = jnp.where(jnp.isnan(logits), -jnp.inf, logits)
    order = jnp.argsort(logits, axis=-1, stable=True, descending=True)
    ranked = jnp.take_along_axis(logits, order, axis=-1)
    last = jnp.clip(jnp.asarray(top_k), 1, logits.shape[-1])[..., None] - 1
    smallest = jnp.take_along_axis(ranked, jnp.broadcast_to(last, (*logits.shape[:-1], 1)), axis=-1)
    ranked = jnp.where(ranked >= smallest, ranked, -jnp.inf)
    probability = jax.nn.softmax(ranked, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    top_p = jnp.asarray(top_p)[..., None]
    keep = (before < top_p) | (top_p >= 1) | (jnp.arange(logits.shape[-1]) == 0)
    return jnp.where(keep, ranked, -jnp.inf), order
