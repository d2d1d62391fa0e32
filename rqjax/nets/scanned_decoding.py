"""A causal stack that draws token after token by a scan over its layers, whose weights and caches stay where they are.

On a TPU a layer's weights are sliced within the product that reads them, and a token's keys and values are written in
place: by the compiler's program nothing is copied. See nets.decoding for other platforms.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from rqjax.mesh import constrain
from rqjax.nets.caches import Cache, attend, write
from rqjax.nets.crossing import read
from rqjax.nets.transformer import Block, Crossed, Index, gelu, place


@dataclasses.dataclass(frozen=True)
class Scanned:
    """The layers of a stack as they are, and what they make of a context if they have cross-attention."""

    blocks: Block
    crossed: Crossed | None


def empty_cache(shape: tuple[int, int, int, int, int], dtype: DTypeLike) -> Cache:
    """An empty cache [layers b heads length size]."""
    empty = constrain(jnp.zeros(shape, dtype), None, "data", "model", None, None)
    return Cache(empty, empty)


def extend(
    scanned: Scanned, x: Float[Array, "b n dim"], caches: Cache, index: Index, mask: Bool[Array, "n visible"]
) -> tuple[Float[Array, "b n dim"], Cache]:
    """The stack's output for `n` more positions, and the caches with theirs written from `index` on; see decode()."""
    layers, settings = caches.keys.shape[0], scanned.blocks.settings

    def layer(
        carry: tuple[Array, Cache], inputs: tuple[Array, Block, Crossed | None]
    ) -> tuple[tuple[Array, Cache], None]:
        (x, caches), (i, block, crossed) = carry, inputs
        y = block.norm1(x)
        query, keys = place(block, block.query(y), block.key(y), index)
        caches = Cache(write(caches.keys, keys, index, i), write(caches.values, block.value(y), index, i))
        own = Cache(*(_of_layer(x, i, mask.shape[1]) for x in caches))
        x = x + block.proj(attend(query, [own], mask))
        x = read(block, x, crossed)
        x = x + block.down(gelu(block.up(block.norm2(x)), settings))
        return (constrain(x, "data", None, None), caches), None

    x = constrain(x.astype(settings.dtype), "data", None, None)
    return jax.lax.scan(layer, (x, caches), (jnp.arange(layers), scanned.blocks, scanned.crossed))[0]


def _of_layer(
    x: Float[Array, "layers b heads length size"], layer: Index, visible: int
) -> Float[Array, "b heads visible size"]:
    _, b, heads, _, size = x.shape
    return jax.lax.dynamic_slice(x, (layer, 0, 0, 0, 0), (1, b, heads, visible, size))[0]
