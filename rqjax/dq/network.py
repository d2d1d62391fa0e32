"""The network of the DQ-Transformer: a stack that says where the next code lies, and one that says which it is."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from rqjax.dq.sequence import SequenceLayout, Tokens
from rqjax.nets.condition import AnyCondition, condition
from rqjax.nets.dropout import dropout
from rqjax.nets.init import DTYPES
from rqjax.nets.transformer import NORMAL, BlockSettings, Stack, layer_norm


@dataclasses.dataclass(kw_only=True)
class NetworkConfig:
    """The part of a DQ-Transformer's configuration that makes its network."""

    grids: tuple[int, ...] = (16, 32)  # the side of each grain's grid: two or three, each twice the one before
    codebook_size: int = 1024  # of the tokenizer
    classes: int = 0  # 0: unconditional
    # share of the images that training sees without their class, which guidance needs; no official form
    condition_dropout: float = 0.0
    order: str = "row-first"  # in which the fine codes come; or "region-first"
    dim: int = 1024  # width
    heads: int = 8  # of attention
    position_layers: int = 6  # of the stack that says where the next code lies
    content_layers: int = 18  # of the stack that says which it is
    block_size: int = 2048  # rows of the learned position table, hence the longest sequence
    embedding_dropout: float = 0.1  # of the inputs
    dropout: float = 0.1  # behind attention and MLP
    attention_dropout: float = 0.1  # of attention's weights
    dtype: str = "bfloat16"  # of computation; parameters are float32
    remat: bool = True  # activations are computed again in the backward pass

    @property
    def condition(self) -> AnyCondition:
        """The class of an image, which every grain's start token names; or nothing."""
        return condition(self.classes, droppable=bool(self.condition_dropout))

    @property
    def layout(self) -> SequenceLayout:
        """The meaning of all ids."""
        return SequenceLayout(
            grids=tuple(self.grids), codebook_size=self.codebook_size, starts=self.condition.size, order=self.order
        )


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

    def __init__(self, config: NetworkConfig, rngs: nnx.Rngs):
        c, dim, layout = config, config.dim, config.layout
        dtype = DTYPES[c.dtype]
        block = BlockSettings(dropout=c.dropout, attention_dropout=c.attention_dropout, dtype=dtype)

        def table(size: int) -> nnx.Embed:
            return nnx.Embed(size, dim, embedding_init=NORMAL, rngs=rngs)

        self.pos_emb = nnx.Param(jnp.zeros((c.block_size, dim)))
        self.position_embs = nnx.List([table(size) for size in layout.position_sizes])
        self.content_emb = table(layout.content_size)
        self.grain_emb = table(layout.grains)
        self.position_stack = Stack(c.position_layers, dim, c.heads, block, c.remat, rngs)
        self.content_stack = Stack(c.content_layers, dim, c.heads, block, c.remat, rngs)
        self.position_head = Head(dim, max(layout.position_sizes), dtype, rngs)
        self.content_head = Head(dim, layout.content_size, dtype, rngs)
        self.offsets = tuple(sum(layout.position_sizes[:g]) for g in range(layout.grains))
        self.embedding_dropout = c.embedding_dropout

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
