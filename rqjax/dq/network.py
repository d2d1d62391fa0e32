"""The network of the DQ-Transformer: a stack that says where the next code lies, and one that says which it is."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from rqjax.nets.transformer import NORMAL, Stack, dropout, layer_norm


class Head(nnx.Module):
    """LayerNorm, then a linear layer without bias."""

    def __init__(self, dim: int, size: int, dtype: Any, rngs: nnx.Rngs):
        self.norm = layer_norm(dim, rngs)
        self.kernel = nnx.Param(NORMAL(rngs.params(), (dim, size)))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch size"]:
        """Float32 logits."""
        x, kernel = self.norm(x).astype(self.dtype), self.kernel[...].astype(self.dtype)
        return jnp.einsum("...i,io->...o", x, kernel, preferred_element_type=jnp.float32)


class DQTransformerNetwork(nnx.Module):
    """Embeddings, the two stacks and their heads.

    A token is a content id, a position id of its grain, that grain, and its index in its own image's sequence. Grains
    share the content embedding and have a position embedding each; the one position head serves all of them, so it is
    as wide as the finest grain needs.
    """

    def __init__(
        self,
        *,
        content_size: int,
        position_sizes: tuple[int, ...],
        block_size: int,
        dim: int,
        embedding_dropout: float,
        position: Mapping[str, Any],
        content: Mapping[str, Any],
        dtype: Any,
        rngs: nnx.Rngs,
    ):
        self.pos_emb = nnx.Param(jnp.zeros((block_size, dim)))
        self.position_embs = nnx.List(
            [nnx.Embed(size, dim, embedding_init=NORMAL, rngs=rngs) for size in position_sizes]
        )
        self.content_emb = nnx.Embed(content_size, dim, embedding_init=NORMAL, rngs=rngs)
        self.grain_emb = nnx.Embed(len(position_sizes), dim, embedding_init=NORMAL, rngs=rngs)
        self.position_stack = Stack(dim=dim, dtype=dtype, rngs=rngs, sigmoid_gelu=False, **position)
        self.content_stack = Stack(dim=dim, dtype=dtype, rngs=rngs, sigmoid_gelu=False, **content)
        self.position_head = Head(dim, max(position_sizes), dtype, rngs)
        self.content_head = Head(dim, content_size, dtype, rngs)
        self.offsets = tuple(sum(position_sizes[:g]) for g in range(len(position_sizes)))
        self.embedding_dropout = embedding_dropout

    def places(self, position: Int[Array, "*batch"], grain: Int[Array, "*batch"]) -> Float[Array, "*batch dim"]:
        """The embedded positions, each by the table of its grain."""
        table = jnp.concatenate([embed.embedding[...] for embed in self.position_embs])
        return table[position + jnp.array(self.offsets, position.dtype)[grain]]

    def tokens(
        self,
        content: Int[Array, "*batch"],
        position: Int[Array, "*batch"],
        grain: Int[Array, "*batch"],
        index: Int[Array, "*batch"],
    ) -> Float[Array, "*batch dim"]:
        """What the position stack reads, before dropout."""
        embedded = self.content_emb(content) + self.places(position, grain)
        return embedded + jnp.take(self.pos_emb[...], index, axis=0) + self.grain_emb(grain)

    def __call__(
        self,
        content: Int[Array, "rows n"],
        position: Int[Array, "rows n"],
        grain: Int[Array, "rows n"],
        index: Int[Array, "rows n"],
        image: Int[Array, "rows n"],
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "rows n-1 dim"], Float[Array, "rows n-1 dim"]]:
        """What the heads read at every token but the last of a row, of which each predicts the next token.

        First for its position, then, given that position, for its content (section 3.2). Tokens attend to those before
        them in the same `image`, an id within the row; give empty slots an id that no image has. Dropout with a key.
        """
        k1, k2, k3 = (None, None, None) if key is None else jax.random.split(key, 3)
        image = image[:, :-1]
        mask = image[:, :, None] == image[:, None, :]
        x = self.tokens(content[:, :-1], position[:, :-1], grain[:, :-1], index[:, :-1])
        positions = self.position_stack(dropout(k1, x, self.embedding_dropout), k2, mask)
        x = positions.astype(jnp.float32) + self.places(position[:, 1:], grain[:, 1:])
        return positions, self.content_stack(x, k3, mask)
