"""The network of the DQ-Transformer: a stack that says where the next code lies, and one that says which it is."""

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from rqjax.dq.sequence import SequenceLayout, Tokens
from rqjax.nets.condition import AnyCondition, condition
from rqjax.nets.dropout import dropout
from rqjax.nets.init import DTYPES
from rqjax.nets.matmul import matmul
from rqjax.nets.text_encoder import TextEncoder, readable
from rqjax.nets.transformer import NORMAL, BlockSettings, Context, Stack, layer_norm


@dataclasses.dataclass(kw_only=True)
class NetworkConfig:
    """The part of a DQ-Transformer's configuration that makes its network.

    It is unconditional (`classes` and `text_vocab` 0), conditional on a class, which its start tokens name, or on a
    text: then every layer of both stacks also attends to the text's features, between attention and MLP. The release
    has the trainer of that model and a layer for it, and takes the features from CLIP; here they are learned.
    """

    grids: tuple[int, ...] = (16, 32)  # the side of each grain's grid: two or three, each twice the one before
    codebook_size: int = 1024  # of the tokenizer
    classes: int = 0  # 0: not led by a class
    text_vocab: int = 0  # tokens of texts; 0: not led by a text
    text_length: int = 0  # tokens of one text
    text_dim: int = 512  # width of a text's features
    text_layers: int = 2  # of the encoder that makes them, which is trained with the prior
    text_heads: int = 8  # of its attention
    # share of the images that training sees without their class or text, which guidance needs; no official form
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
    keep_products: bool = False  # with remat: but not the results of products with weights

    @property
    def condition(self) -> AnyCondition:
        """The class of an image, which every grain's start token names, a text, or nothing."""
        return condition(self.classes, self.text_vocab, self.text_length, bool(self.condition_dropout))

    @property
    def layout(self) -> SequenceLayout:
        """The meaning of all ids. Texts have one start token in common."""
        starts = 1 if self.text_vocab else self.condition.size
        return SequenceLayout(
            grids=tuple(self.grids), codebook_size=self.codebook_size, starts=starts, order=self.order
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
        return matmul(x, kernel, preferred_element_type=jnp.float32)


class DQTransformerNetwork(nnx.Module):
    """Embeddings, the two stacks and their heads.

    Grains share the content embedding and have a position embedding each; the one position head serves all of them, so
    it is as wide as the finest grain needs.
    """

    def __init__(self, config: NetworkConfig, rngs: nnx.Rngs):
        c, dim, layout = config, config.dim, config.layout
        dtype = DTYPES[c.dtype]
        rates = {"dropout": c.dropout, "attention_dropout": c.attention_dropout}
        plain = BlockSettings(**rates, keep_products=c.keep_products, dtype=dtype)
        block = dataclasses.replace(plain, context=c.text_dim if c.text_vocab else 0)

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
        if c.text_vocab:
            self.text = TextEncoder(
                size=c.text_vocab,
                length=c.text_length,
                dim=c.text_dim,
                layers=c.text_layers,
                heads=c.text_heads,
                block=dataclasses.replace(plain, causal=False),
                remat=c.remat,
                rngs=rngs,
            )
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

    def context(
        self,
        texts: Int[Array, "rows images length"],
        image: Int[Array, "rows n"],
        key: Key[Array, ""] | None = None,
    ) -> Context:
        """The features of all texts of a row, of which each token reads those of its own image's text."""
        count = texts.shape[1]
        features = self.text(rearrange(texts, "r k l -> (r k) l"), key)
        own = image[:, :, None] == jnp.arange(count)
        mask = rearrange(own[..., None] & readable(texts)[:, None], "r n k l -> r n (k l)")
        return Context(rearrange(features, "(r k) l d -> r (k l) d", k=count), mask)

    def __call__(
        self,
        tokens: Tokens,
        image: Int[Array, "rows n"],
        key: Key[Array, ""] | None = None,
        texts: Int[Array, "rows images length"] | None = None,
    ) -> tuple[Float[Array, "rows n-1 dim"], Float[Array, "rows n-1 dim"]]:
        """The inputs of the position head and of the content head, at every token [rows n] but the last of a row.

        Each token predicts the next: its position, then, given that position, its content (section 3.2). Tokens attend
        to those before them in the same `image`, an id within the row; give empty slots an id that no image has. Those
        of image i read `texts[:, i]`, if the network is led by texts. Dropout with a key.
        """
        k1, k2, k3 = (None, None, None) if key is None else jax.random.split(key, 3)
        image = image[:, :-1]
        mask = image[:, :, None] == image[:, None, :]
        folded = None if key is None else jax.random.fold_in(key, 3)
        context = None if texts is None else self.context(texts, image, folded)
        x = self.embed(jax.tree.map(lambda ids: ids[:, :-1], tokens))
        positions = self.position_stack(dropout(k1, x, self.embedding_dropout), k2, mask, context)
        x = positions.astype(jnp.float32) + self.places(tokens.position[:, 1:], tokens.grain[:, 1:])
        return positions, self.content_stack(x, k3, mask, context)
