"""Cross-entropies over large vocabularies, a few positions at a time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int


def hard(logits: Float[Array, "*grid vocab"], codes: Int[Array, "*grid"]) -> Float[Array, "*grid"]:
    """-log p(code), in float32."""
    return jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, codes[..., None], axis=-1)[..., 0]


def soft(logits: Float[Array, "*grid vocab"], target: Float[Array, "*grid vocab"]) -> Float[Array, "*grid"]:
    """-sum of target * log p, in float32, for a target that sums to 1."""
    return jax.nn.logsumexp(logits, axis=-1) - jnp.sum(target * logits, axis=-1)


def by_chunks(loss: Callable[..., Array], chunk: int, *arrays: Array) -> Float[Array, "b n *rest"]:
    """`loss(*arrays)` computed over at most `chunk` positions (the second axis of every array) at a time.

    `loss` maps arrays [b positions ...] to [b positions *rest], position by position. What it makes on the way is
    computed again in the backward pass, so it is never held for more than one chunk; where all positions are one chunk
    it is computed once, since the backward pass begins with it. The batch axis stays whole: it may be split over a
    mesh.
    """
    n = arrays[0].shape[1]
    if n <= chunk:
        return loss(*arrays)
    chunks = -(-n // chunk)

    def split(x: Array) -> Array:
        x = jnp.pad(x, [(0, 0), (0, chunks * chunk - n)] + [(0, 0)] * (x.ndim - 2))
        return rearrange(x, "b (m c) ... -> m b c ...", m=chunks)

    step = jax.checkpoint(lambda xs: loss(*xs), prevent_cse=False)
    losses = jax.lax.map(step, tuple(split(x) for x in arrays))
    return rearrange(losses, "m b c ... -> b (m c) ...")[:, :n]
