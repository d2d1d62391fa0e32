"""Captions as features for cross-attention: a small transformer over their tokens, trained with what reads them."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from rqjax.nets.transformer import NORMAL, BlockSettings, MaybeKey, Stack, layer_norm


class TextEncoder(nnx.Module):
    """Token and place embeddings, layers in which all tokens of a text see each other, and a norm."""

    def __init__(
        self,
        *,
        size: int,
        length: int,
        dim: int,
        layers: int,
        heads: int,
        block: BlockSettings,
        remat: bool,
        rngs: nnx.Rngs,
    ):
        self.tokens = nnx.Embed(size, dim, embedding_init=NORMAL, rngs=rngs)
        self.places = nnx.Param(NORMAL(rngs.params(), (length, dim)))
        self.stack = Stack(layers, dim, heads, block, remat, rngs)
        self.norm = layer_norm(dim, rngs)

    def __call__(self, ids: Int[Array, "b length"], key: MaybeKey = None) -> Float[Array, "b length dim"]:
        """The features of every token in float32; those of padding mean nothing. Dropout with a key."""
        mask = jnp.broadcast_to(readable(ids)[:, None], (*ids.shape, ids.shape[1]))
        return self.norm(self.stack(self.tokens(ids) + self.places[...], key, mask))


def readable(ids: Int[Array, "*grid length"]) -> Bool[Array, "*grid length"]:
    """The tokens of texts that may be read: all but padding, 0. An empty text has its first one, and so says it is."""
    return (ids > 0) | (jnp.arange(ids.shape[-1]) == 0)
