"""The network of the RQ-Transformer: a body over positions, a head over the depths of one position."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from rqjax.interface import Quantizer
from rqjax.nets.by_rows import twice
from rqjax.nets.condition import AnyCondition, condition
from rqjax.nets.dropout import dropout
from rqjax.nets.init import DTYPES
from rqjax.nets.matmul import matmul
from rqjax.nets.transformer import LOWEST, NORMAL, BlockSettings, Index, Stack, dense, layer_norm


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class BlockConfig:
    """The options of a stack's layers that those of the other stack may have otherwise."""

    dropout: float = 0.1  # behind attention and MLP
    attention_dropout: float = 0.0  # of attention's weights
    sigmoid_gelu: bool = False  # x sigmoid(1.702 x) for the exact GELU: "v2" of the official release
    attention_bias: bool = True  # of attention's four linear layers
    mlp_bias: bool = True  # of the MLP's two linear layers


@dataclasses.dataclass(kw_only=True)
class NetworkConfig(BlockConfig):
    """The part of an RQ-Transformer's configuration that makes its network; its own BlockConfig is the body's.

    It is unconditional (`classes` and `text_vocab` 0), conditional on a class, or on a text of `text_length` tokens.
    Published models have all five of the flags from `input_emb_vqvae` on set.
    """

    code_shape: tuple[int, int] = (8, 8)  # positions of the tokenizer's map, down and across
    depth: int = 4  # codes to a position
    codebook_size: tuple[int, ...] = (16384,)  # one for all depths, or one for each
    dim: int = 1536  # width
    input_dim: int = 256  # width of a code vector of the tokenizer
    body_layers: int = 42  # over positions
    head_layers: int = 6  # over the depths of one position
    body_heads: int = 0  # 0: as many as make heads of 64 features, as published
    head_heads: int = 0  # the same
    classes: int = 0  # 0: not led by a class
    text_vocab: int = 0  # tokens of texts; 0: not led by a text
    text_length: int = 0  # tokens of one text
    # share of the images that training sees without their class or text, which guidance needs; no official form
    condition_dropout: float = 0.0
    input_emb_vqvae: bool = True  # the body reads the tokenizer's code vectors, not embeddings of its own
    head_emb_vqvae: bool = True  # so does the head
    cumsum_depth_ctx: bool = True  # the head reads the sum of the codes so far, not the last alone
    shared_tok_emb: bool = True  # one table of the network's own embeddings for all depths
    shared_cls_emb: bool = True  # one classifier for all depths
    head_block: BlockConfig | None = None  # the options of the head's layers; None: those of the body's
    embedding_dropout: float = 0.0  # of the inputs
    qk_norm: bool = False  # normalised queries and keys; no official form
    rope: bool = False  # two-dimensional rotary positions in the body, beside the learned ones; no official form
    dtype: str = "bfloat16"  # of computation (the release: float16); parameters are float32
    remat: bool = True  # activations are computed again in the backward pass
    keep_products: bool = False  # with remat: but not the results of products with weights

    def __post_init__(self) -> None:
        self.body_heads = self.body_heads or max(self.dim // 64, 1)
        self.head_heads = self.head_heads or max(self.dim // 64, 1)

    @property
    def condition(self) -> AnyCondition:
        """The tokens in front of the codes."""
        return condition(self.classes, self.text_vocab, self.text_length, bool(self.condition_dropout))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The codebook size of each depth."""
        return tuple(self.codebook_size) * (self.depth if len(self.codebook_size) == 1 else 1)

    @property
    def body_settings(self) -> BlockSettings:
        """The settings of the body's layers."""
        rope = (self.condition.length, *self.code_shape) if self.rope else None
        return dataclasses.replace(self._settings(self), rope=rope)

    @property
    def head_settings(self) -> BlockSettings:
        """The settings of the head's layers, which have no rope: depths lie on no grid."""
        return self._settings(self.head_block or self)

    def _settings(self, options: BlockConfig) -> BlockSettings:
        own = {field.name: getattr(options, field.name) for field in dataclasses.fields(BlockConfig)}
        return BlockSettings(**own, qk_norm=self.qk_norm, keep_products=self.keep_products, dtype=DTYPES[self.dtype])


class Classifier(nnx.Module):
    """LayerNorm, then one linear layer for all depths, or one for each; codes that a depth does not have are masked."""

    def __init__(self, dim: int, sizes: tuple[int, ...], shared: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        size = max(sizes)
        depths = () if shared else (len(sizes),)
        self.layer_norm = layer_norm(dim, rngs)
        self.kernel = nnx.Param(NORMAL(rngs.params(), (*depths, dim, size)))
        self.bias = nnx.Param(jnp.zeros((*depths, size)))
        self.sizes = sizes
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*grid depth dim"]) -> Float[Array, "*grid depth codes"]:
        """Float32 logits of all depths."""
        x = self.layer_norm(x).astype(self.dtype)
        kernel = self.kernel.astype(self.dtype)
        if kernel.ndim == 2:
            logits = matmul(x, kernel, preferred_element_type=jnp.float32)
        else:
            logits = jnp.einsum("...di,dio->...do", x, kernel, preferred_element_type=jnp.float32)
        return self._mask(logits + self.bias.astype(jnp.float32), jnp.array(self.sizes)[:, None])

    def at(self, x: Float[Array, "b dim"], depth: Index) -> Float[Array, "b codes"]:
        """Float32 logits of one depth."""
        pick = (lambda parameter: parameter) if self.kernel.ndim == 2 else (lambda parameter: parameter[depth])
        x, kernel = self.layer_norm(x).astype(self.dtype), pick(self.kernel[...]).astype(self.dtype)
        logits = jnp.einsum("bi,io->bo", twice(x), kernel, preferred_element_type=jnp.float32)[: len(x)]
        return self._mask(logits + pick(self.bias[...]).astype(jnp.float32), jnp.asarray(self.sizes)[depth])

    def _mask(self, logits: Array, size: Array | int) -> Array:
        if min(self.sizes) == max(self.sizes):
            return logits
        return jnp.where(jnp.arange(logits.shape[-1]) < size, logits, LOWEST)


class RQTransformerNetwork(nnx.Module):
    """Embeddings, the two stacks and the classifiers; names of the arrays follow the official release.

    `vectors` are the tokenizer's code vectors of `codes`. They are used where `input_emb_vqvae` (body) or
    `head_emb_vqvae` (head) say so, through a linear layer; else the network has its own embeddings of the codes.
    """

    def __init__(self, config: NetworkConfig, rngs: nnx.Rngs):
        c, dim, sizes, dtype = config, config.dim, config.sizes, DTYPES[config.dtype]
        self.pos_emb_cond = nnx.Param(NORMAL(rngs.params(), (c.condition.length, dim)))
        self.pos_emb_hw = nnx.Param(NORMAL(rngs.params(), (math.prod(c.code_shape), dim)))
        self.pos_emb_d = nnx.Param(NORMAL(rngs.params(), (c.depth, dim)))
        self.cond_emb = nnx.Embed(c.condition.size, dim, embedding_init=NORMAL, rngs=rngs)
        if not (c.input_emb_vqvae and c.head_emb_vqvae):
            rows = max(sizes) if c.shared_tok_emb else sum(sizes)
            self.tok_emb = nnx.Embed(rows, dim, embedding_init=NORMAL, rngs=rngs)
        if c.input_emb_vqvae:
            self.input_mlp = dense(c.input_dim, dim, dtype, rngs)
        if c.head_emb_vqvae:
            self.head_mlp = dense(c.input_dim, dim, dtype, rngs)
        self.body = Stack(c.body_layers, dim, c.body_heads, c.body_settings, c.remat, rngs)
        self.head = Stack(c.head_layers, dim, c.head_heads, c.head_settings, c.remat, rngs)
        self.classifier = Classifier(dim, sizes, c.shared_cls_emb, dtype, rngs)
        if c.condition.length > 1:
            self.cond_classifier = Classifier(dim, (c.condition.size,), True, dtype, rngs)
        self.input_emb_vqvae, self.head_emb_vqvae = c.input_emb_vqvae, c.head_emb_vqvae
        self.cumsum_depth_ctx, self.embedding_dropout = c.cumsum_depth_ctx, c.embedding_dropout
        self.offsets = tuple(0 if c.shared_tok_emb else sum(sizes[:d]) for d in range(c.depth))

    def vectors(self, quantizer: Quantizer, codes: Int[Array, "*grid d"]) -> Float[Array, "*grid d input_dim"]:
        """The tokenizer's vectors of the codes of the first `d` depths; of width 0 if the network does without."""
        if not (self.input_emb_vqvae or self.head_emb_vqvae):
            return jnp.zeros((*codes.shape, 0))
        return quantizer.vectors(codes)

    def __call__(
        self,
        conditions: Int[Array, "b length"],
        codes: Int[Array, "b n depth"],
        quantizer: Quantizer,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b length-1 dim"], Float[Array, "b n depth dim"]]:
        """The outputs of the body for the conditions from the second on, and of the head for the codes."""
        vectors = self.vectors(quantizer, codes)
        k1, k2 = (None, None) if key is None else jax.random.split(key)
        text, spatial = self.hidden(conditions, codes, vectors, k1)
        return text, self.depths(spatial, codes, vectors, k2)

    def tokens(
        self, codes: Int[Array, "b n depth"], vectors: Float[Array, "b n depth input_dim"]
    ) -> Float[Array, "b n dim"]:
        """The body's input at each position, before its place is added: the sum over depths of embedded codes.

        The layer's bias counts once per depth, as in the reference, which applies it before the sum.
        """
        if not self.input_emb_vqvae:
            return jnp.sum(self._own(codes), axis=-2)
        layer, bias = self.input_mlp, self.input_mlp.bias
        assert bias is not None
        extra = (codes.shape[-1] - 1) * bias[...].astype(jnp.float32)
        return layer(jnp.sum(vectors, axis=-2)).astype(jnp.float32) + extra

    def context(
        self, codes: Int[Array, "b n d"], vectors: Float[Array, "b n d input_dim"]
    ) -> Float[Array, "b n d dim"]:
        """The head's input at depths 1, 2, ..., d, before the place is added: the codes so far, or just the last."""
        embedded = vectors if self.head_emb_vqvae else self._own(codes)
        embedded = jnp.cumsum(embedded, axis=-2) if self.cumsum_depth_ctx else embedded
        return self.head_mlp(embedded).astype(jnp.float32) if self.head_emb_vqvae else embedded

    def _own(self, codes: Array) -> Array:
        return self.tok_emb(codes + jnp.array(self.offsets[: codes.shape[-1]], codes.dtype))

    def prefix(
        self,
        conditions: Int[Array, "b length"],
        codes: Int[Array, "b n depth"],
        vectors: Float[Array, "b n depth input_dim"],
    ) -> Float[Array, "b length+n dim"]:
        """The body's input: the conditions, then the first `n` positions."""
        first = self.led_by(conditions)
        return jnp.concatenate([first, self.tokens(codes, vectors) + self.pos_emb_hw[: codes.shape[1]]], axis=1)

    def led_by(self, conditions: Int[Array, "b length"]) -> Float[Array, "b length dim"]:
        """The body's input in front of an image's codes."""
        return self.cond_emb(conditions) + self.pos_emb_cond[...]

    def hidden(
        self,
        conditions: Int[Array, "b length"],
        codes: Int[Array, "b n depth"],
        vectors: Float[Array, "b n depth input_dim"],
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b length-1 dim"], Float[Array, "b n dim"]]:
        """The body's outputs (paper's eq. 12): those that predict conditions, and those that predict each position."""
        k1, k2 = (None, None) if key is None else jax.random.split(key)
        x = self.prefix(conditions, codes[:, :-1], vectors[:, :-1])
        x = self.body(dropout(k1, x, self.embedding_dropout), k2)
        last = conditions.shape[1] - 1
        return x[:, :last], x[:, last:]

    def depths(
        self,
        spatial: Float[Array, "b n dim"],
        codes: Int[Array, "b n depth"],
        vectors: Float[Array, "b n depth input_dim"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b n depth dim"]:
        """The head's outputs: at each depth of each position, from the body's output there and the codes before it."""
        first = spatial.astype(jnp.float32)[:, :, None]
        rest = self.context(codes[..., :-1], vectors[..., :-1, :])
        x = jnp.concatenate([first, rest], axis=2) + self.pos_emb_d[...]
        x = self.head(rearrange(x, "b n d c -> (b n) d c"), key)
        return rearrange(x, "(b n) d c -> b n d c", b=codes.shape[0])
