"""Logits to tokens: how they are drawn; settings are arrays, so changing them compiles nothing."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int, Key

from rqjax.errors import InputError
from rqjax.mesh import platform
from rqjax.nets.filters import filter_logits, without_nan
from rqjax.nets.partition import by_batch, in_pieces

BLOCK = 128
"""Tokens of a block of the vocabulary, of which a draw chooses one first: as many as a TPU's tile is wide."""
CACHED = 2**17
"""Logits that a CPU filters at once: each of many passes over more of them would find none in the core's own cache."""


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
        settings = self.temperature[stream], self.top_k[stream], self.top_p[stream]
        rows, vocab = logits.shape
        at_once = max(CACHED // vocab, 1) if platform() == "cpu" else rows
        return in_pieces(lambda piece: sample(piece[0], piece[1], *settings), (keys, logits), at_once)


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


def sample(
    keys: Key[Array, "b"],
    logits: Float[Array, "b vocab"],
    temperature: Float[Array, ""] | float,
    top_k: Int[Array, ""] | int,
    top_p: Float[Array, ""] | float,
) -> Int[Array, "b"]:
    """A token for each row, drawn from the filtered logits with the row's own key; at temperature 0 that of the largest
    logit (the first of equals).
    """
    temperature = jnp.asarray(temperature, jnp.float32)

    def likeliest(keys: Key[Array, "b"], logits: Float[Array, "b vocab"]) -> Int[Array, "b"]:
        return jnp.argmax(without_nan(logits), axis=-1)

    def drawn(keys: Key[Array, "b"], logits: Float[Array, "b vocab"]) -> Int[Array, "b"]:
        return draw(keys, filter_logits(logits, temperature, top_k, top_p))

    return jax.lax.cond(temperature == 0, likeliest, drawn, keys, logits).astype(jnp.int32)


def draw(keys: Key[Array, "b"], logits: Float[Array, "b vocab"]) -> Int[Array, "b"]:
    """A token for each row by its probability, none of -inf: by inversion, in two steps of a uniform number each, first
    a block of the vocabulary and then one of its tokens.

    Adding Gumbel noise (jax.random.categorical) takes a random number and two logarithms for each token.
    """
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    padding = -logits.shape[-1] % BLOCK
    blocks = rearrange(jnp.pad(weights, ((0, 0), (0, padding))), "b (blocks token) -> b blocks token", token=BLOCK)
    first, second = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys).T
    block = _chosen(jnp.sum(blocks, axis=-1), first)
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    return block * BLOCK + _chosen(inside, second)


def _chosen(weights: Float[Array, "b n"], uniform: Float[Array, "b"]) -> Int[Array, "b"]:
    """The first of each row with which the sum passes a share of the whole. It has a weight, however sums round."""
    total = jnp.cumsum(weights, axis=-1)
    passed = (total > uniform[:, None] * total[:, -1:]) & (weights > 0)
    return jnp.where(jnp.any(passed, axis=-1), jnp.argmax(passed, axis=-1), jnp.argmax(weights, axis=-1))
