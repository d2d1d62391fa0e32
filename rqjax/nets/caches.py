"""Keys and values that a layer has seen, kept for the tokens to come.

The heads of a lone image may lie in two rows, half of them in each: over a single axis of batch the CPU's compiler
copies all keys, transposed, for each token, and over two it reads them where they are (a seventh of the time).

On a CPU a long sequence lies in several caches, each of a stretch of its positions and made when that stretch begins: a
cache is read whole, since a part of it would be copied first.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from rqjax.nets.transformer import LOWEST, Index


class Cache(NamedTuple):
    """The keys and values of one layer, or of `layers` in front, at `length` positions in a row."""

    keys: Float[Array, "*layers rows apart length size"]  # an image is one row, or two with half of its heads each
    values: Float[Array, "*layers rows apart length size"]

    @property
    def length(self) -> int:
        return self.keys.shape[-2]


Line = tuple[Cache, ...]
"""The caches of one layer, one behind the other; positions are written into the last."""


def write(
    old: Float[Array, "*layers rows apart length size"],
    part: Float[Array, "b n heads size"],
    index: Index,
    *layer: Index,
) -> Float[Array, "*layers rows apart length size"]:
    """The array with those of `n` positions of a layer from `index` on; `layer` says which, if it has all of them."""
    part = rearrange(part, "b n (rows heads) size -> (b rows) heads n size", heads=old.shape[-3])
    part = jnp.expand_dims(part.astype(old.dtype), range(len(layer)))
    return jax.lax.dynamic_update_slice(old, part, (*layer, 0, 0, index, 0))


def write_last(
    line: Line, keys: Float[Array, "b n heads size"], values: Float[Array, "b n heads size"], index: Index
) -> Line:
    """The caches with `n` positions from `index` on, all of which lie in the last one."""
    *before, last = line
    index = index - sum(cache.length for cache in before)
    return *before, Cache(write(last.keys, keys, index), write(last.values, values, index))


def attend(
    query: Float[Array, "b n heads size"], line: Sequence[Cache], mask: Bool[Array, "n visible"]
) -> Float[Array, "b n heads size"]:
    """The values that each query finds at the first `visible` positions of a layer's caches, where the mask allows."""
    parts, visible = [], mask.shape[1]
    for cache in line:
        parts.append(Cache(*(x[:, :, :visible] for x in cache)))
        visible -= parts[-1].length
    whole, apart, dtype = query.shape[2], line[0].keys.shape[1], query.dtype
    query = (query * query.shape[-1] ** -0.5).astype(line[0].keys.dtype)
    query = rearrange(query, "b n (rows heads) size -> (b rows) n heads size", heads=apart)
    logits = [jnp.einsum("bqhs,bhks->bhqk", query, x.keys, preferred_element_type=jnp.float32) for x in parts]
    weights = jax.nn.softmax(jnp.where(mask, jnp.concatenate(logits, -1), LOWEST), axis=-1)
    ends = list(itertools.accumulate(x.length for x in parts))
    weights = jnp.split(weights.astype(line[0].values.dtype), ends[:-1], axis=-1)
    read = [jnp.einsum("bhqk,bhks->bqhs", w, x.values) for w, x in zip(weights, parts, strict=True)]
    found = sum(read[1:], start=read[0]).astype(dtype)
    return rearrange(found, "(b rows) n heads size -> b n (rows heads) size", rows=whole // apart)
