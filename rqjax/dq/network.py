"""The network of the DQ-Transformer: a stack that says where the next code lies, and one that says which it is."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from rqjax.dq.sequence import Tokens
from rqjax.nets.transformer import NORMAL, BlockSettings, Stack, dropout, layer_norm


class Head(nnx.Module):
    """LayerNorm, then a linear layer without bias."""

    def __init__(self, dim: int, size: int, dtype: DTypeLike, rngs: nnx.Rngs):
        self.norm = layer_norm(dim, rngs)
        self.kernel = nnx.Param(NORMAL(rngs.params(), (dim, size)))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch size"]:
        """Float32 logits."""
        x, kernel = self.norm(x).astype(self.dtype), self.kernel[...].astype(self.dtype)
        return jnp.einsum("...i,io->...o", x, kernel, preferred_element_type=jnp.float32)


class DQTransformerNetwork(nnx.Module):
    """Embeddings, the two stacks and their heads.

    Grains share the content embedding and have a position embedding each; the one position head serves all of them, so
    it is as wide as the finest grain needs.
    """

    def __init__(
        self,
        *,
        content_size: int,
        position_sizes: tuple[int, ...],
        block_size: int,
        dim: int,
        heads: int,
        position_layers: int,
        content_layers: int,
        embedding_dropout: float,
        block: BlockSettings,
        remat: bool,
        rngs: nnx.Rngs,
    ):
        self.pos_emb = nnx.Param(jnp.zeros((block_size, dim)))
        self.position_embs = nnx.List(
            [nnx.Embed(size, dim, embedding_init=NORMAL, rngs=rngs) for size in position_sizes]
        )
        self.content_emb = nnx.Embed(content_size, dim, embedding_init=NORMAL, rngs=rngs)
        self.grain_emb = nnx.Embed(len(position_sizes), dim, embedding_init=NORMAL, rngs=rngs)
        self.position_stack, self.content_stack = (
            Stack(layers=layers, dim=dim, heads=heads, block=block, remat=remat, rngs=rngs)
            for layers in (position_layers, content_layers)
        )
        self.position_head = Head(dim, max(position_sizes), block.dtype, rngs)
        self.content_head = Head(dim, content_size, block.dtype, rngs)
        self.offsets = tuple(sum(position_sizes[:g]) for g in range(len(position_sizes)))
        self.embedding_dropout = embedding_dropout

    def places(self, position: Int[Array, "*grid"], grain: Int[Array, "*grid"]) -> Float[Array, "*grid dim"]:
        """The embedded positions, each by the table of its grain."""
        table = jnp.concatenate([embed.embedding[...] for embed in self.position_embs])
        return table[position + jnp.array(self.offsets, position.dtype)[grain]]

    def embed(self, tokens: Tokens) -> Float[Array, "*grid dim"]:
        """The input of the position stack, before dropout."""
        embedded = self.content_emb(tokens.content) + self.places(tokens.position, tokens.grain)
        return embedded + jnp.take(self.pos_emb[...], tokens.index, axis=0) + self.grain_emb(tokens.grain)

    def __call__(
        self, tokens: Tokens, image: Int[Array, "rows n"], key: Key[Array, ""] | None = None
    ) -> tuple[Float[Array, "rows n-1 dim"], Float[Array, "rows n-1 dim"]]:
        """The inputs of the position head and of the content head, at every token [rows n] but the last of a row.

        Each token predicts the next: its position, then, given that position, its content (section 3.2). Tokens attend
        to those before them in the same `image`, an id within the row; give empty slots an id that no image has.
        Dropout with a key.
        """
        k1, k2, k3 = (None, None, None) if key is None else jax.random.split(key, 3)
        image = image[:, :-1]
        mask = image[:, :, None] == image[:, None, :]
        x = self.embed(jax.tree.map(lambda ids: ids[:, :-1], tokens))
        positions = self.position_stack(dropout(k1, x, self.embedding_dropout), k2, mask)
        x = positions.astype(jnp.float32) + self.places(tokens.position[:, 1:], tokens.grain[:, 1:])
        return positions, self.content_stack(x, k3, mask)
