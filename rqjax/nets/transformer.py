"""A transformer: a stack of equal pre-norm layers, scanned. nets.decoding runs a causal one token after token."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from rqjax.nets.dropout import dropout
from rqjax.nets.init import Rngs
from rqjax.nets.matmul import matmul
from rqjax.nets.partition import by_batch
from rqjax.nets.recompute import recomputed
from rqjax.nets.rope import rope_angles, rotate

NORMAL = nnx.initializers.normal(0.02)
"""Every weight and embedding of a transformer starts as N(0, 0.02); biases at 0, norms at 1 and 0."""
Sizes = int | tuple[int, ...]
MaybeKey = Key[Array, ""] | None
Index = Int[Array, ""] | int
LOWEST = jnp.finfo(jnp.float32).min


def layer_norm(dim: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """A LayerNorm as PyTorch has it, with float32 statistics and output."""
    return nnx.LayerNorm(dim, epsilon=1e-5, use_fast_variance=False, dtype=jnp.float32, rngs=rngs)


def dense(
    inputs: Sizes, outputs: Sizes, dtype: DTypeLike, rngs: nnx.Rngs, axis: Sizes = -1, bias: bool = True
) -> nnx.LinearGeneral:
    """A linear layer over one or several axes, with the transformer's initialisation."""
    return nnx.LinearGeneral(
        inputs, outputs, axis=axis, use_bias=bias, dtype=dtype, kernel_init=NORMAL, dot_general=matmul, rngs=rngs
    )


def attention(
    query: Float[Array, "b q heads size"],
    keys: Float[Array, "b k heads size"],
    values: Float[Array, "b k heads size"],
    mask: Bool[Array, "#b q k"] | None,
    key: MaybeKey = None,
    rate: float = 0.0,
) -> Float[Array, "b q heads size"]:
    """The values that each query reads from the positions its mask allows (None: all); logits, softmax in float32.

    `rate` drops attention probabilities. A query that may attend to nothing gets the mean of all values, not NaN.
    """
    query = query * query.shape[-1] ** -0.5
    logits = jnp.einsum("bqhs,bkhs->bhqk", query, keys, preferred_element_type=jnp.float32)
    logits = logits if mask is None else jnp.where(mask[:, None], logits, LOWEST)
    weights = jax.nn.softmax(logits, axis=-1)
    weights = dropout(key, weights, rate).astype(values.dtype)
    return jnp.einsum("bhqk,bkhs->bqhs", weights, values)


class Context(NamedTuple):
    """The features, as of a caption, that layers with cross-attention read beside their own tokens."""

    features: Float[Array, "b m context"]
    mask: Bool[Array, "b #n m"]  # which of them each token may read


class Crossed(NamedTuple):
    """The keys and values that one layer makes of a context, or all `layers` in front."""

    keys: Float[Array, "*layers b m heads size"]
    values: Float[Array, "*layers b m heads size"]
    mask: Bool[Array, "*layers b #n m"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockSettings:
    """The settings that all layers of a stack share, but for their sizes."""

    causal: bool = True  # no token sees those behind it
    dropout: float = 0.0  # of both branches
    attention_dropout: float = 0.0  # of attention's probabilities
    sigmoid_gelu: bool = False  # x sigmoid(1.702 x) for the exact GELU
    attention_bias: bool = True  # of attention's four linear layers
    mlp_bias: bool = True
    qk_norm: bool = False  # queries and keys of each head are normalised, with a learned scale (ViT-22B)
    # two-dimensional rotary positions: tokens in front, rows and columns of the grid behind them; None: none
    rope: tuple[int, int, int] | None = None
    context: int = 0  # width of the features that cross-attention reads; 0: there is none
    # what recomputes activations keeps the results of products with weights: less memory than all, little to do again
    keep_products: bool = False
    dtype: DTypeLike = jnp.float32  # of computation


class Block(nnx.Module):
    """One layer: x + attention(norm(x)), then x + mlp(norm(x)); between them x + cross_attention(norm(x)) to a context
    if the settings have one.

    Heads are an axis of the kernels of their own, so that a mesh can split the layer by heads.
    """

    def __init__(self, *, dim: int, heads: int, settings: BlockSettings, rngs: nnx.Rngs):
        split, dtype = (heads, dim // heads), settings.dtype
        self.norm1 = layer_norm(dim, rngs)
        bias = settings.attention_bias
        self.query, self.key, self.value = (dense(dim, split, dtype, rngs, bias=bias) for _ in range(3))
        self.proj = dense(split, dim, dtype, rngs, axis=(-2, -1), bias=bias)
        if settings.qk_norm:
            self.query_norm, self.key_norm = (
                nnx.LayerNorm(split[1], epsilon=1e-6, use_bias=False, dtype=jnp.float32, rngs=rngs) for _ in range(2)
            )
        if settings.context:
            self.cross_norm, self.cross_query = layer_norm(dim, rngs), dense(dim, split, dtype, rngs, bias=bias)
            self.cross_key, self.cross_value = (
                dense(settings.context, split, dtype, rngs, bias=bias) for _ in range(2)
            )
            self.cross_proj = dense(split, dim, dtype, rngs, axis=(-2, -1), bias=bias)
        self.norm2 = layer_norm(dim, rngs)
        self.up = dense(dim, 4 * dim, dtype, rngs, bias=settings.mlp_bias)
        self.down = dense(4 * dim, dim, dtype, rngs, bias=settings.mlp_bias)
        self.settings = settings

    def __call__(
        self,
        x: Float[Array, "b n dim"],
        mask: Bool[Array, "#b n n"] | None,
        key: MaybeKey = None,
        context: Context | None = None,
    ) -> Float[Array, "b n dim"]:
        """The layer's output, with dropout where there is a key."""
        k1, k2, k3 = (None, None, None) if key is None else jax.random.split(key, 3)
        y = self.norm1(x)
        query, keys = place(self, self.query(y), self.key(y), 0)
        y = attention(query, keys, self.value(y), mask, k1, self.settings.attention_dropout)
        x = x + dropout(k2, self.proj(y), self.settings.dropout)
        if self.settings.context:
            assert context is not None  # the network that has such layers gives them one
            x = self.read(x, self.crossed(context), None if key is None else jax.random.fold_in(key, 3))
        y = gelu(self.up(self.norm2(x)), self.settings)
        x = x + dropout(k3, self.down(y), self.settings.dropout)
        return by_batch(x)

    def crossed(self, context: Context) -> "Crossed":
        """The keys and values that the layer makes of a context, whatever tokens read it."""
        return Crossed(self.cross_key(context.features), self.cross_value(context.features), context.mask)

    def read(self, x: Float[Array, "b n dim"], crossed: "Crossed", key: MaybeKey = None) -> Float[Array, "b n dim"]:
        """The tokens with what they read from the context, with dropout where there is a key."""
        k1, k2 = (None, None) if key is None else jax.random.split(key)
        mask = jnp.broadcast_to(crossed.mask, (len(crossed.mask), x.shape[1], crossed.mask.shape[2]))
        query = self.cross_query(self.cross_norm(x))
        y = attention(query, crossed.keys, crossed.values, mask, k1, self.settings.attention_dropout)
        return x + dropout(k2, self.cross_proj(y), self.settings.dropout)


def place(
    block: Block, query: Float[Array, "b n heads size"], keys: Float[Array, "b n heads size"], index: Index
) -> tuple[Float[Array, "b n heads size"], Float[Array, "b n heads size"]]:
    """Queries and keys of `n` tokens from `index` on, normalised and rotated as the block's settings say."""
    settings = block.settings
    if settings.qk_norm:
        query, keys = block.query_norm(query), block.key_norm(keys)
    if settings.rope:
        tokens = index + jnp.arange(query.shape[1])[None]
        angles = jnp.asarray(rope_angles(*settings.rope, query.shape[-1]))[tokens]
        query, keys = rotate(query, angles), rotate(keys, angles)
    return query.astype(settings.dtype), keys.astype(settings.dtype)


def gelu(x: Float[Array, "*shape"], settings: BlockSettings) -> Float[Array, "*shape"]:
    """The exact GELU, or x sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x) if settings.sigmoid_gelu else jax.nn.gelu(x, approximate=False)


class Stack(nnx.Module):
    """Equal layers; each parameter has a leading layer axis, so the compiled program doesn't grow with their number.

    A stack of no layers has no parameters, and returns its input.
    """

    def __init__(self, layers: int, dim: int, heads: int, block: BlockSettings, remat: bool, rngs: nnx.Rngs):
        def make(key: Array) -> Block:
            return Block(dim=dim, heads=heads, settings=block, rngs=Rngs(key))

        self.blocks = jax.vmap(make)(jax.random.split(rngs.params(), layers)) if layers else None
        self.layers = layers
        self.remat, self.keep_products = remat, block.keep_products
        self.dtype, self.causal = block.dtype, block.causal

    def __call__(
        self,
        x: Float[Array, "b n dim"],
        key: MaybeKey = None,
        mask: Bool[Array, "#b n n"] | None = None,
        context: Context | None = None,
    ) -> Float[Array, "b n dim"]:
        """The stack's output in the compute dtype (no final norm); dropout where there is a key.

        `mask` says which positions may be attended to (query axis first), of a causal stack among present and past.
        Layers with cross-attention read `context`. `remat` recomputes each layer in the backward pass.
        """
        if not self.layers:
            return x
        if self.causal:
            past = causal(x.shape[1])
            mask = past if mask is None else past & mask

        def step(x: Array, layer: tuple[Block, MaybeKey]) -> tuple[Array, None]:
            block, layer_key = layer
            return block(x, mask, layer_key, context), None

        keys = None if key is None else jax.random.split(key, self.layers)
        step = recomputed(step, self.remat, self.keep_products, prevent_cse=False)
        return jax.lax.scan(step, by_batch(x.astype(self.dtype)), (self.blocks, keys))[0]


def causal(n: int) -> Bool[Array, "1 n n"]:
    """The mask of positions that see themselves and those before."""
    return jnp.tril(jnp.ones((1, n, n), bool))
