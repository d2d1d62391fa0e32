"""A transformer: a stack of equal pre-norm layers, scanned in training and unrolled over caches in decoding."""

import dataclasses
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.tree_util import KeyPath
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from rqjax.mesh import constrain, name_of
from rqjax.nets.init import Rngs
from rqjax.nets.partition import by_batch
from rqjax.nets.rope import rope_angles, rotate

NORMAL = nnx.initializers.normal(0.02)
"""Every weight and embedding of a transformer starts as N(0, 0.02); biases at 0, norms at 1 and 0."""
Module = TypeVar("Module", bound=nnx.Module)
Sizes = int | tuple[int, ...]
MaybeKey = Key[Array, ""] | None
Index = Int[Array, ""] | int
LOWEST = jnp.finfo(jnp.float32).min


class Cache(NamedTuple):
    """The keys and values that one layer has seen, in arrays of the full length from the start."""

    keys: Float[Array, "b length heads size"]
    values: Float[Array, "b length heads size"]


def dropout(key: MaybeKey, x: Float[Array, "*shape"], rate: float) -> Float[Array, "*shape"]:
    """`x` with a fraction `rate` of its elements zeroed and the others scaled up; `x` itself without key or rate."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0.0).astype(x.dtype)


def layer_norm(dim: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """A LayerNorm as PyTorch has it, with float32 statistics and output."""
    return nnx.LayerNorm(dim, epsilon=1e-5, use_fast_variance=False, dtype=jnp.float32, rngs=rngs)


def dense(
    inputs: Sizes, outputs: Sizes, dtype: DTypeLike, rngs: nnx.Rngs, axis: Sizes = -1, bias: bool = True
) -> nnx.LinearGeneral:
    """A linear layer over one or several axes, with the transformer's initialisation."""
    return nnx.LinearGeneral(inputs, outputs, axis=axis, use_bias=bias, dtype=dtype, kernel_init=NORMAL, rngs=rngs)


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


def in_compute_dtype(module: Module, dtype: DTypeLike) -> Module:
    """A copy of a module with its matrices and biases in `dtype` but its norms in float32.

    It computes the same numbers: a loop over tokens need not convert them each time.
    """

    def convert(path: KeyPath, x: Array) -> Array:
        return x if "norm" in name_of(path) else x.astype(dtype)

    return jax.tree_util.tree_map_with_path(convert, module)


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
    dtype: DTypeLike = jnp.float32  # of computation


class Block(nnx.Module):
    """One layer: x + attention(norm(x)), then x + mlp(norm(x)).

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
        self.norm2 = layer_norm(dim, rngs)
        self.up = dense(dim, 4 * dim, dtype, rngs, bias=settings.mlp_bias)
        self.down = dense(4 * dim, dim, dtype, rngs, bias=settings.mlp_bias)
        self.settings = settings

    def __call__(
        self, x: Float[Array, "b n dim"], mask: Bool[Array, "#b n n"] | None, key: MaybeKey = None
    ) -> Float[Array, "b n dim"]:
        """The layer's output, with dropout where there is a key."""
        k1, k2, k3 = (None, None, None) if key is None else jax.random.split(key, 3)
        y = self.norm1(x)
        query, keys = self._query_and_key(y, 0)
        y = attention(query, keys, self.value(y), mask, k1, self.settings.attention_dropout)
        return self._rest(x, y, k2, k3)

    def _query_and_key(self, y: Float[Array, "b n dim"], index: Index) -> tuple[Array, Array]:
        """The queries and keys of `n` tokens, the first of which is token `index` of its row."""
        query, keys, settings = self.query(y), self.key(y), self.settings
        if settings.qk_norm:
            query, keys = self.query_norm(query), self.key_norm(keys)
        if settings.rope:
            tokens = index + jnp.arange(y.shape[1])[None]
            angles = jnp.asarray(rope_angles(*settings.rope, query.shape[-1]))[tokens]
            query, keys = rotate(query, angles), rotate(keys, angles)
        return query.astype(settings.dtype), keys.astype(settings.dtype)

    def extend(
        self, x: Float[Array, "b n dim"], cache: Cache, index: Index, mask: Bool[Array, "#b n length"]
    ) -> tuple[Float[Array, "b n dim"], Cache]:
        """The output for `n` more positions, and the cache with their keys and values written from `index` on."""

        def write(old: Array, part: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(old, part.astype(old.dtype), index, axis=1)

        y = self.norm1(x)
        query, keys = self._query_and_key(y, index)
        cache = jax.tree.map(write, cache, Cache(keys, self.value(y)))
        return self._rest(x, attention(query, cache.keys, cache.values, mask)), cache

    def _rest(self, x: Array, attended: Array, k1: MaybeKey = None, k2: MaybeKey = None) -> Array:
        x = x + dropout(k1, self.proj(attended), self.settings.dropout)
        y = self.up(self.norm2(x))
        y = y * jax.nn.sigmoid(1.702 * y) if self.settings.sigmoid_gelu else jax.nn.gelu(y, approximate=False)
        x = x + dropout(k2, self.down(y), self.settings.dropout)
        return by_batch(x)


class Stack(nnx.Module):
    """Equal layers; each parameter has a leading layer axis, so the compiled program doesn't grow with their number.

    A stack of no layers has no parameters, and returns its input.
    """

    def __init__(self, layers: int, dim: int, heads: int, block: BlockSettings, remat: bool, rngs: nnx.Rngs):
        def make(key: Array) -> Block:
            return Block(dim=dim, heads=heads, settings=block, rngs=Rngs(key))

        self.blocks = jax.vmap(make)(jax.random.split(rngs.params(), layers)) if layers else None
        self.layers = layers
        self.remat = remat
        self.dtype, self.causal = block.dtype, block.causal

    def __call__(
        self, x: Float[Array, "b n dim"], key: MaybeKey = None, mask: Bool[Array, "#b n n"] | None = None
    ) -> Float[Array, "b n dim"]:
        """The stack's output in the compute dtype (no final norm); dropout where there is a key.

        `mask` says which positions may be attended to (query axis first), of a causal stack among present and past.
        `remat` recomputes each layer in the backward pass.
        """
        if not self.layers:
            return x
        if self.causal:
            causal = _causal(x.shape[1])
            mask = causal if mask is None else causal & mask

        def step(x: Array, layer: tuple[Block, MaybeKey]) -> tuple[Array, None]:
            block, layer_key = layer
            return block(x, mask, layer_key), None

        keys = None if key is None else jax.random.split(key, self.layers)
        step = jax.checkpoint(step, prevent_cse=False) if self.remat else step
        return jax.lax.scan(step, by_batch(x.astype(self.dtype)), (self.blocks, keys))[0]

    def unstack(self) -> tuple[Block, ...]:
        """The layers one by one, to slice once before a decoding loop: a scan would copy the weights at every token.

        Their matrices are in the compute dtype already.
        """
        if self.blocks is None:
            return ()
        blocks = in_compute_dtype(self.blocks, self.dtype)
        return tuple(jax.tree.map(lambda x, i=i: x[i], blocks) for i in range(self.layers))

    def init_caches(self, batch: int, length: int) -> tuple[Cache, ...]:
        """Empty caches for `length` positions, one per layer."""
        if self.blocks is None:
            return ()
        layers, _, heads, size = self.blocks.query.kernel.shape
        empty = constrain(jnp.zeros((batch, length, heads, size), self.dtype), "data", None, "model", None)
        return tuple(Cache(empty, empty) for _ in range(layers))


def prefill(
    blocks: tuple[Block, ...], x: Float[Array, "b n dim"], caches: tuple[Cache, ...]
) -> tuple[Float[Array, "b n dim"], tuple[Cache, ...]]:
    """The outputs of the first `n` positions at once, and the caches that hold them."""
    if not blocks:
        return x, caches
    n, length = x.shape[1], caches[0].keys.shape[1]
    return _extend(blocks, x, caches, 0, jnp.pad(_causal(n), ((0, 0), (0, 0), (0, length - n))))


def decode(
    blocks: tuple[Block, ...], x: Float[Array, "b 1 dim"], caches: tuple[Cache, ...], index: Index
) -> tuple[Float[Array, "b 1 dim"], tuple[Cache, ...]]:
    """The output of one more position, at `index`, which sees those up to its own, and the caches that hold it."""
    if not blocks:
        return x, caches
    return _extend(blocks, x, caches, index, jnp.arange(caches[0].keys.shape[1])[None, None] <= index)


def _causal(n: int) -> Bool[Array, "1 n n"]:
    return jnp.tril(jnp.ones((1, n, n), bool))


def _extend(
    blocks: tuple[Block, ...], x: Array, caches: tuple[Cache, ...], index: Index, mask: Array
) -> tuple[Array, tuple[Cache, ...]]:
    x = constrain(x.astype(blocks[0].settings.dtype), "data", None, None)
    written = []
    for block, cache in zip(blocks, caches, strict=True):
        x, cache = block.extend(x, cache, index, mask)
        written.append(cache)
    return x, tuple(written)
