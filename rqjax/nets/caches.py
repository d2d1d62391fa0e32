"""Keys and values that a layer has seen, kept for the tokens to come."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rqjax.nets.transformer import LOWEST, Index


class Cache(NamedTuple):
    """The keys and values of one layer, or of `layers` in front, in arrays of the full length from the start."""

    keys: Float[Array, "*layers b heads length size"]
    values: Float[Array, "*layers b heads length size"]


def write(
    old: Float[Array, "*layers b heads length size"], part: Float[Array, "b n heads size"], index: Index, *layer: Index
) -> Float[Array, "*layers b heads length size"]:
    """The array with those of `n` positions of a layer from `index` on; `layer` says which, if it has all of them."""
    part = jnp.expand_dims(part.transpose(0, 2, 1, 3).astype(old.dtype), range(len(layer)))
    return jax.lax.dynamic_update_slice(old, part, (*layer, 0, 0, index, 0))


def attend(
    query: Float[Array, "b n heads size"], cache: Cache, mask: Bool[Array, "n visible"]
) -> Float[Array, "b n heads size"]:
    """The values that each query finds at the first `visible` positions of one layer's cache, where the mask allows."""
    keys, values = (x[:, :, : mask.shape[1]] for x in cache)
    query = query * query.shape[-1] ** -0.5
    logits = jnp.einsum("bqhs,bhks->bhqk", query, keys, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(mask, logits, LOWEST), axis=-1).astype(values.dtype)
    return jnp.einsum("bhqk,bhks->bqhs", weights, values)
