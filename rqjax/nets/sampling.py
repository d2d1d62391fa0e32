"""Logits to tokens: temperature, top-k, top-p and the draw; settings are arrays, so changing them compiles nothing."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

Number = Float[Array, "..."] | float
Count = Int[Array, "..."] | int


def filter_logits(
    logits: Float[Array, "*batch vocab"], temperature: Number, top_k: Count, top_p: Number
) -> Float[Array, "*batch vocab"]:
    """Float32 logits divided by the temperature, -inf where top-k or top-p drops the token.

    In this order: divide; NaN becomes -inf; keep what is no smaller than the k-th largest (ties stay); of the
    probabilities renormalised over these, largest first, drop a token if those before it sum to p or more. At least one
    token stays. `top_k` >= vocab and `top_p` >= 1 change nothing. The three settings broadcast against the batch axes.
    Temperature is above 0 here. Equal logits rank by index, lowest first.
    """
    ranked, order = _ranked(_scaled(logits, temperature), top_k, top_p)
    return jnp.put_along_axis(jnp.zeros_like(ranked), order, ranked, axis=-1, inplace=False)


def sample(
    key: Key[Array, ""], logits: Float[Array, "*batch vocab"], temperature: Number, top_k: Count, top_p: Number
) -> Int[Array, "*batch"]:
    """Tokens drawn from the filtered logits; where the temperature is 0, the largest logit (the first of equals)."""
    temperature = jnp.asarray(temperature, jnp.float32)
    greedy = temperature == 0
    ranked, order = _ranked(_scaled(logits, jnp.where(greedy, 1.0, temperature)), top_k, top_p)
    rank = jnp.where(greedy, 0, jax.random.categorical(key, ranked))
    return jnp.take_along_axis(order, rank[..., None], axis=-1)[..., 0].astype(jnp.int32)


def _scaled(logits: Array, temperature: Number) -> Array:
    scaled = logits.astype(jnp.float32) / jnp.asarray(temperature)[..., None]
    return jnp.where(jnp.isnan(scaled), -jnp.inf, scaled)


def _ranked(logits: Array, top_k: Count, top_p: Number) -> tuple[Array, Array]:
    """The filtered logits from the largest down, and the token of each: one sort serves both filters."""
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
