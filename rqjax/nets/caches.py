"""Keys and values that a layer has seen, kept for the tokens to come.

The heads of a lone image may lie in two rows, half of them in each: over a single axis of batch the CPU's compiler
copies all keys, transposed, for each token, and over two it reads them where they are (a seventh of the time).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from rqjax.nets.transformer import LOWEST, Index


class Cache(NamedTuple):
    """The keys and values of one layer, or of `layers` in front, in arrays of the full length from the start."""

    keys: Float[Array, "*layers rows apart length size"]  # an image is one row, or two with half of its heads each
    values: Float[Array, "*layers rows apart length size"]


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


def attend(
    query: Float[Array, "b n heads size"], cache: Cache, mask: Bool[Array, "n visible"]
) -> Float[Array, "b n heads size"]:
    """The values that each query finds at the first `visible` positions of one layer's cache, where the mask allows."""
    keys, values = (x[:, :, : mask.shape[1]] for x in cache)
    query, whole = query * query.shape[-1] ** -0.5, query.shape[2]
    query = rearrange(query, "b n (rows heads) size -> (b rows) n heads size", heads=keys.shape[1])
    logits = jnp.einsum("bqhs,bhks->bhqk", query, keys, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(mask, logits, LOWEST), axis=-1).astype(values.dtype)
    read = jnp.einsum("bhqk,bhks->bqhs", weights, values)
    return rearrange(read, "(b rows) n heads size -> b n (rows heads) size", rows=whole // keys.shape[1])
