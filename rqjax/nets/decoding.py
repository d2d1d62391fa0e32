"""A causal stack made ready to draw token after token: layers over caches, in the form that the platform reads fastest.

A product with one row of a batch is bound by the reading of its kernel. So on CPUs and GPUs layers stand one by one,
their kernels [outputs inputs], which is read in order; queries, keys and values come of one product. All of that is
made once, before the loop over tokens. A TPU takes a layer's weights out of the stacked ones within the product, so
that nets.scanned_decoding needs no copy of them there, and compiles one layer instead of all.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.tree_util import KeyPath
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from rqjax.mesh import constrain, name_of, platform
from rqjax.nets import scanned_decoding
from rqjax.nets.caches import Cache, attend, write
from rqjax.nets.crossing import crossed, crossed_by_all, read
from rqjax.nets.int8 import Int8Linear, kernel_of
from rqjax.nets.scanned_decoding import Scanned
from rqjax.nets.transformer import Block, Context, Crossed, Index, Stack, causal, gelu, place

Module = TypeVar("Module", bound=nnx.Module)


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
    crossed: Crossed | None

    def extend(
        self, x: Float[Array, "b n dim"], cache: Cache, index: Index, mask: Bool[Array, "n visible"]
    ) -> tuple[Float[Array, "b n dim"], Cache]:
        """The output for `n` more positions, and the cache with their keys and values written from `index` on. The
        first `visible` positions are read, as the mask allows.
        """
        block, heads = self.block, cache.keys.shape[1]
        parts = rearrange(
            self.attend(block.norm1(x)), "b n (heads part size) -> part b n heads size", heads=heads, part=3
        )
        query, keys = place(block, parts[0], parts[1], index)
        cache = Cache(write(cache.keys, keys, index), write(cache.values, parts[2], index))
        x = x + self.proj(rearrange(attend(query, cache, mask), "b n heads size -> b n (heads size)"))
        x = read(block, x, self.crossed)
        x = x + self.down(gelu(self.up(block.norm2(x)), block.settings))
        return constrain(x, "data", None, None), cache


Layers = tuple[Layer, ...] | Scanned
"""Layers one by one, or those of a stack as they are."""
Caches = tuple[Cache, ...] | Cache
"""One of each layer, or a cache whose arrays have all layers in front."""
TPU_STRETCHES = 4


def layers_of(stack: Stack, context: Context | None = None) -> Layers:
    """The layers ready for a loop over tokens; but on TPUs, a scan over them would copy their weights at each token.
    Those with cross-attention read the same `context` at all tokens.
    """
    if stack.blocks is None:
        return ()
    blocks = in_compute_dtype(stack.blocks, stack.dtype)
    if platform() == "tpu":
        return Scanned(blocks, crossed_by_all(blocks, context))
    return tuple(_layer(jax.tree.map(lambda x, i=i: x[i], blocks), context) for i in range(stack.layers))


def stretches(positions: int) -> list[tuple[int, int]]:
    """Into which parts (first, last + 1) a loop over positions falls; each reads caches up to its end alone.

    Each part is compiled by itself, which only a TPU's scanned layers make cheap.
    """
    parts = min(TPU_STRETCHES, positions) if platform() == "tpu" else 1
    ends = [positions * i // parts for i in range(parts + 1)]
    return list(itertools.pairwise(ends))


def _layer(block: Block, context: Context | None) -> Layer:
    three = (block.query, block.key, block.value)
    # heads first: a mesh that splits heads splits the rows of the kernel in equal parts
    kernel = rearrange([kernel_of(x) for x in three], "part dim heads size -> (heads part size) dim")
    biases = [_bias(x) for x in three]
    bias = None if biases[0] is None else rearrange(biases, "part heads size -> (heads part size)")
    proj = Linear(rearrange(kernel_of(block.proj), "heads size dim -> dim (heads size)"), _bias(block.proj))
    up, down = (Linear(kernel_of(x).T, _bias(x)) for x in (block.up, block.down))
    return Layer(block, Linear(kernel, bias), proj, up, down, crossed(block, context))


def _bias(layer: nnx.LinearGeneral | Int8Linear) -> Array | None:
    return None if layer.bias is None else layer.bias[...]


def empty_caches(stack: Stack, batch: int, length: int) -> Caches:
    """Empty caches for `length` positions, of each layer."""
    if stack.blocks is None:
        return ()
    layers, _, heads, size = stack.blocks.query.kernel.shape
    if platform() == "tpu":
        return scanned_decoding.empty_cache((layers, batch, heads, length, size), stack.dtype)
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
        if stack.blocks is not None:
            kernel = stack.blocks.query.kernel
            if platform() != "tpu" or kernel.dtype not in (stack.dtype, jnp.int8):  # else read where they are
                layers += item * sum(x.size for x in jax.tree.leaves(stack))
            count, _, heads, size = kernel.shape
            row += item * 2 * count * heads * length * size
    return Footprint(layers, row + 4 * 4 * codes)


def prefill(layers: Layers, x: Float[Array, "b n dim"], caches: Caches) -> tuple[Float[Array, "b n dim"], Caches]:
    """The outputs of the first `n` positions at once, and the caches that hold them."""
    return _extend(layers, x, caches, 0, causal(x.shape[1])[0])


def decode(
    layers: Layers, x: Float[Array, "b 1 dim"], caches: Caches, index: Index, visible: int
) -> tuple[Float[Array, "b 1 dim"], Caches]:
    """The output of one more position, at `index`, which sees those up to its own, and the caches that hold it. Only
    the first `visible` positions are read, of which `index` is one.
    """
    return _extend(layers, x, caches, index, jnp.arange(visible)[None] <= index)


def in_compute_dtype(module: Module, dtype: DTypeLike) -> Module:
    """A copy of a module with its matrices and biases in `dtype` but its norms in float32, and int8 as it is.

    It computes the same numbers: a loop over tokens need not convert them each time.
    """

    def convert(path: KeyPath, x: Array) -> Array:
        name = name_of(path)
        as_it_is = "norm" in name or name.endswith("/scale") or not jnp.issubdtype(x.dtype, jnp.floating)
        return x if as_it_is else x.astype(dtype)

    return jax.tree_util.tree_map_with_path(convert, module)


def _extend(
    layers: Layers, x: Array, caches: Caches, index: Index, mask: Bool[Array, "n visible"]
) -> tuple[Array, Caches]:
    if isinstance(caches, Cache):
        assert isinstance(layers, Scanned)  # the platform decides of both
        return scanned_decoding.extend(layers, x, caches, index, mask)
    if not layers:
        return x, caches
    assert isinstance(layers, tuple)
    x = constrain(x.astype(layers[0].block.settings.dtype), "data", None, None)
    written = []
    for layer, cache in zip(layers, caches, strict=True):
        x, cache = layer.extend(x, cache, index, mask)
        written.append(cache)
    return x, tuple(written)
