"""A causal stack made ready to draw token after token: layers one by one over caches, in the layout that reads fastest.

A product with one row of a batch is bound by the reading of its kernel. So kernels are kept [outputs inputs], which is
read in order; queries, keys and values come of one product; and each head's keys and values lie side by side. All of
that is made once, before the loop over tokens.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.tree_util import KeyPath
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from rqjax.mesh import constrain, name_of
from rqjax.nets.transformer import LOWEST, Block, Index, Stack, causal, gelu, place

Module = TypeVar("Module", bound=nnx.Module)


class Cache(NamedTuple):
    """The keys and values that one layer has seen, in arrays of the full length from the start."""

    keys: Float[Array, "b heads length size"]
    values: Float[Array, "b heads length size"]


@dataclasses.dataclass(frozen=True)
class Linear:
    """A linear layer with its outputs in front."""

    kernel: Float[Array, "outputs inputs"]
    bias: Float[Array, "outputs"] | None

    def __call__(self, x: Float[Array, "b n inputs"]) -> Float[Array, "b n outputs"]:
        y = jax.lax.dot_general(x.astype(self.kernel.dtype), self.kernel, (((2,), (1,)), ((), ())))
        return y if self.bias is None else y + self.bias


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of a stack; it computes as `block` does, over a cache."""

    block: Block
    attend: Linear  # to query, key and value of the first head, then those of the next
    proj: Linear
    up: Linear
    down: Linear

    def extend(
        self, x: Float[Array, "b n dim"], cache: Cache, index: Index, mask: Bool[Array, "n length"]
    ) -> tuple[Float[Array, "b n dim"], Cache]:
        """The output for `n` more positions, and the cache with their keys and values written from `index` on."""
        block, heads = self.block, cache.keys.shape[1]
        parts = rearrange(
            self.attend(block.norm1(x)), "b n (heads part size) -> part b n heads size", heads=heads, part=3
        )
        query, keys = place(block, parts[0], parts[1], index)
        cache = Cache(_write(cache.keys, keys, index), _write(cache.values, parts[2], index))
        x = x + self.proj(rearrange(_attention(query, cache, mask), "b n heads size -> b n (heads size)"))
        x = x + self.down(gelu(self.up(block.norm2(x)), block.settings))
        return constrain(x, "data", None, None), cache


def layers_of(stack: Stack) -> tuple[Layer, ...]:
    """The layers one by one: a scan over them would copy their weights at every token."""
    if stack.blocks is None:
        return ()
    blocks = in_compute_dtype(stack.blocks, stack.dtype)
    return tuple(_layer(jax.tree.map(lambda x, i=i: x[i], blocks)) for i in range(stack.layers))


def _layer(block: Block) -> Layer:
    three = (block.query, block.key, block.value)
    # heads first: a mesh that splits heads splits the rows of the kernel in equal parts
    kernel = rearrange([x.kernel[...] for x in three], "part dim heads size -> (heads part size) dim")
    biases = [_bias(x) for x in three]
    bias = None if biases[0] is None else rearrange(biases, "part heads size -> (heads part size)")
    proj = Linear(rearrange(block.proj.kernel[...], "heads size dim -> dim (heads size)"), _bias(block.proj))
    up, down = (Linear(x.kernel[...].T, _bias(x)) for x in (block.up, block.down))
    return Layer(block, Linear(kernel, bias), proj, up, down)


def _bias(layer: nnx.LinearGeneral) -> Array | None:
    return None if layer.bias is None else layer.bias[...]


def empty_caches(stack: Stack, batch: int, length: int) -> tuple[Cache, ...]:
    """Empty caches for `length` positions, one per layer."""
    if stack.blocks is None:
        return ()
    layers, _, heads, size = stack.blocks.query.kernel.shape
    empty = constrain(jnp.zeros((batch, heads, length, size), stack.dtype), "data", "model", None, None)
    return tuple(Cache(empty, empty) for _ in range(layers))


class Footprint(NamedTuple):
    """Bytes that drawing holds beside the parameters: the layers made ready for the loop, and those of each row."""

    layers: int
    row: int


def footprint(stacks: Sequence[tuple[Stack, int]], codes: int) -> Footprint:
    """Of stacks with caches for so many positions, and logits of `codes` codes. Filters hold a few logits at once."""
    layers = row = 0
    for stack, length in stacks:
        item = jnp.dtype(stack.dtype).itemsize
        layers += item * sum(x.size for x in jax.tree.leaves(stack))
        if stack.blocks is not None:
            count, _, heads, size = stack.blocks.query.kernel.shape
            row += item * 2 * count * heads * length * size
    return Footprint(layers, row + 4 * 4 * codes)


def prefill(
    layers: tuple[Layer, ...], x: Float[Array, "b n dim"], caches: tuple[Cache, ...]
) -> tuple[Float[Array, "b n dim"], tuple[Cache, ...]]:
    """The outputs of the first `n` positions at once, and the caches that hold them."""
    if not layers:
        return x, caches
    n, length = x.shape[1], caches[0].keys.shape[2]
    return _extend(layers, x, caches, 0, jnp.pad(causal(n)[0], ((0, 0), (0, length - n))))


def decode(
    layers: tuple[Layer, ...], x: Float[Array, "b 1 dim"], caches: tuple[Cache, ...], index: Index
) -> tuple[Float[Array, "b 1 dim"], tuple[Cache, ...]]:
    """The output of one more position, at `index`, which sees those up to its own, and the caches that hold it."""
    if not layers:
        return x, caches
    return _extend(layers, x, caches, index, jnp.arange(caches[0].keys.shape[2])[None] <= index)


def in_compute_dtype(module: Module, dtype: DTypeLike) -> Module:
    """A copy of a module with its matrices and biases in `dtype` but its norms in float32.

    It computes the same numbers: a loop over tokens need not convert them each time.
    """

    def convert(path: KeyPath, x: Array) -> Array:
        return x if "norm" in name_of(path) else x.astype(dtype)

    return jax.tree_util.tree_map_with_path(convert, module)


def _extend(
    layers: tuple[Layer, ...], x: Array, caches: tuple[Cache, ...], index: Index, mask: Array
) -> tuple[Array, tuple[Cache, ...]]:
    x = constrain(x.astype(layers[0].block.settings.dtype), "data", None, None)
    written = []
    for layer, cache in zip(layers, caches, strict=True):
        x, cache = layer.extend(x, cache, index, mask)
        written.append(cache)
    return x, tuple(written)


def _write(old: Float[Array, "b heads length size"], part: Float[Array, "b n heads size"], index: Index) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(old, part.transpose(0, 2, 1, 3).astype(old.dtype), index, axis=2)


def _attention(
    query: Float[Array, "b n heads size"], cache: Cache, mask: Bool[Array, "n length"]
) -> Float[Array, "b n heads size"]:
    query = query * query.shape[-1] ** -0.5
    logits = jnp.einsum("bqhs,bhks->bhqk", query, cache.keys, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(mask, logits, LOWEST), axis=-1).astype(cache.values.dtype)
    return jnp.einsum("bhqk,bhks->bqhs", weights, cache.values)
