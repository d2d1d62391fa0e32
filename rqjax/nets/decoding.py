"""A causal stack made ready to draw token after token: layers over caches, in the form that the platform reads fastest.

A product with one row of a batch is bound by the reading of its kernel. So on CPUs and GPUs layers stand one by one,
their kernels [outputs inputs], which is read in order; queries, keys and values come of one product. `unrolled` makes
that form once for many batches; else each batch makes it before its loop over tokens. A TPU takes a layer's weights out
of the stacked ones within the product, so that nets.scanned_decoding needs no copy of them there, and compiles one
layer instead of all.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.tree_util import KeyPath
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from rqjax.mesh import constrain, name_of, platform
from rqjax.nets import scanned_decoding
from rqjax.nets.by_rows import joined, kept_int8
from rqjax.nets.caches import Cache, Line, attend, write_last
from rqjax.nets.crossing import crossed, crossed_by_all, read
from rqjax.nets.scanned_decoding import Scanned
from rqjax.nets.transformer import Block, Context, Crossed, Index, Stack, causal, gelu, place

Module = TypeVar("Module", bound=nnx.Module)
P = TypeVar("P", bound="Trained")


@runtime_checkable
class Trained(Protocol):
    """A prior, as far as it is read here; see interface.Model."""

    @property
    def trained(self) -> nnx.Module: ...

    def with_trained(self: P, trained: Any) -> P: ...


class Layer(nnx.Module):
    """One layer of a stack; it computes as `block` does, over a cache."""

    def __init__(self, block: Block):
        self.heads = block.query.kernel.shape[1]
        # to query, key and value of the first head, then those of the next: a mesh that splits heads splits the rows of
        # the kernel in equal parts
        three, outputs = (block.query, block.key, block.value), "part heads size -> (heads part size)"
        self.attend = joined(three, "part dim heads size -> (heads part size) dim", outputs)
        self.proj = joined([block.proj], "part heads size dim -> (part dim) (heads size)", "part dim -> (part dim)")
        self.up, self.down = (
            joined([x], "part inputs outputs -> (part outputs) inputs", "part outputs -> (part outputs)")
            for x in (block.up, block.down)
        )
        for name in ("query", "key", "value", "proj", "up", "down"):
            delattr(block, name)
        self.block = block  # what is left of it: norms, cross-attention, settings

    def extend(
        self,
        x: Float[Array, "b n dim"],
        line: Line,
        index: Index,
        mask: Bool[Array, "n visible"],
        crossed: Crossed | None,
    ) -> tuple[Float[Array, "b n dim"], Line]:
        """The output for `n` more positions, and the caches with their keys and values written from `index` on. The
        first `visible` positions are read, as the mask allows.
        """
        block, three = self.block, self.attend(self.block.norm1(x))
        parts = rearrange(three, "b n (heads part size) -> part b n heads size", heads=self.heads, part=3)
        query, keys = place(block, parts[0], parts[1], index)
        line = write_last(line, keys, parts[2], index)
        x = x + self.proj(rearrange(attend(query, line, mask), "b n heads size -> b n (heads size)"))
        x = read(block, x, crossed)
        x = x + self.down(gelu(self.up(block.norm2(x)), block.settings))
        return constrain(x, "data", None, None), line


class Unrolled(nnx.Module):
    """The layers of a stack one by one. They draw, and do nothing else."""

    def __init__(self, stack: Stack):
        blocks = None if stack.blocks is None else in_compute_dtype(stack.blocks, stack.dtype)
        self.layers = nnx.List([Layer(jax.tree.map(lambda x, i=i: x[i], blocks)) for i in range(stack.layers)])
        self.shape, self.dtype = _shape(stack), stack.dtype


class Apart(NamedTuple):
    """Layers one by one, and what each makes of a context if it has cross-attention."""

    layers: Sequence[Layer]
    crossed: Sequence[Crossed | None]


Layers = Apart | Scanned
"""Layers one by one, or those of a stack as they are."""
Caches = tuple[Line, ...] | Cache
"""Those of each layer, or one whose arrays have all layers in front."""
STRETCHES = {"tpu": 4, "cpu": 2}
CPU_STRETCH = 256
"""The most stretches of a loop over positions, and how many positions one has at least on a CPU."""


def unrolled(prior: P) -> P:
    """A prior for many batches, with the layers of its causal stacks as this platform draws with them: the prior itself
    on a TPU. It shares all other arrays.
    """
    if platform() == "tpu":
        return prior
    network = jax.tree.map(lambda x: x, prior.trained)
    for _, module in list(nnx.iter_modules(network)):
        for name, part in list(vars(module).items()):
            if isinstance(part, Stack) and part.causal:
                setattr(module, name, Unrolled(part))
    return prior.with_trained(network)


def layers_of(stack: Stack | Unrolled, context: Context | None = None) -> Layers:
    """The layers ready for a loop over tokens; but on TPUs, a scan over them would copy their weights at each token.
    Those with cross-attention read the same `context` at all tokens.
    """
    if platform() == "tpu" and isinstance(stack, Stack) and stack.blocks is not None:
        blocks = in_compute_dtype(stack.blocks, stack.dtype)
        return Scanned(blocks, crossed_by_all(blocks, context))
    layers = (stack if isinstance(stack, Unrolled) else Unrolled(stack)).layers
    return Apart(layers, [crossed(layer.block, context) for layer in layers])


def stretches(positions: int) -> list[tuple[int, int]]:
    """Into which parts (first, last + 1) a loop over positions falls; each reads caches up to its end alone.

    Each part is compiled by itself: on a TPU that is cheap, as its layers are scanned, on a CPU all layers once more.
    """
    shortest = CPU_STRETCH if platform() == "cpu" else 1
    parts = max(1, min(STRETCHES.get(platform(), 1), positions // shortest))
    ends = [positions * i // parts for i in range(parts + 1)]
    return list(itertools.pairwise(ends))


def empty_caches(stack: Stack | Unrolled, batch: int, length: int, at_first: int | None = None) -> Caches:
    """Empty caches of each layer for `length` positions; on a CPU for the first, if `lengthened` is to add more."""
    layers, heads, size = _shape(stack)
    if platform() == "tpu" and layers:
        return scanned_decoding.empty_cache((layers, batch, heads, length, size), stack.dtype)
    rows = 2 if batch == 1 and heads % 2 == 0 and platform() == "cpu" else 1  # see nets.caches
    return ((_empty(stack, batch * rows, heads // rows, at_first or length),),) * layers


def lengthened(stack: Stack | Unrolled, caches: Caches, visible: int) -> Caches:
    """The caches with a place for the first `visible` positions; those that have it already as they are."""
    if isinstance(caches, Cache) or not caches:
        return caches
    more = visible - sum(cache.length for cache in caches[0])
    rows, apart = caches[0][0].keys.shape[:2]
    return tuple((*line, _empty(stack, rows, apart, more)) for line in caches) if more > 0 else caches


def _empty(stack: Stack | Unrolled, rows: int, apart: int, length: int) -> Cache:
    _, heads, size = _shape(stack)
    empty = jnp.zeros((rows, apart, length, size), _cache_dtype(stack))
    empty = constrain(empty, "data", "model", None, None) if apart == heads else empty
    return Cache(empty, empty)


def _cache_dtype(stack: Stack | Unrolled) -> DTypeLike:
    """On a CPU float32: to write a position of bfloat16 its compiler would convert the whole cache there and back."""
    return jnp.float32 if platform() == "cpu" else stack.dtype


def _shape(stack: Stack | Unrolled) -> tuple[int, int, int]:
    """The number of layers, of their heads, and of the features of a head."""
    if isinstance(stack, Unrolled):
        return stack.shape
    if stack.blocks is None:
        return 0, 0, 0
    layers, _, heads, size = stack.blocks.query.kernel.shape
    return layers, heads, size


class Footprint(NamedTuple):
    """Bytes that drawing holds beside the parameters: the layers made ready for the loop, and those of each row."""

    layers: int
    row: int


def footprint(stacks: Sequence[tuple[Stack | Unrolled, int]], codes: int) -> Footprint:
    """Of stacks with caches for so many positions, and logits of `codes` codes. Filters hold a few logits at once."""
    layers = row = 0
    for stack, length in stacks:
        item = jnp.dtype(stack.dtype).itemsize
        if isinstance(stack, Stack) and stack.blocks is not None:
            kernel = stack.blocks.query.kernel
            if platform() != "tpu" or kernel.dtype not in (stack.dtype, jnp.int8):  # else read where they are
                layers += sum(x.size * (1 if kept_int8(x) else item) for x in jax.tree.leaves(stack))
        count, heads, size = _shape(stack)
        row += jnp.dtype(_cache_dtype(stack)).itemsize * 2 * count * heads * length * size
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
    assert isinstance(layers, Apart)
    if not caches:
        return x, caches
    x = constrain(x.astype(layers.layers[0].block.settings.dtype), "data", None, None)
    written = []
    for layer, context, line in zip(*layers, caches, strict=True):
        x, line = layer.extend(x, line, index, mask, context)
        written.append(line)
    return x, tuple(written)
