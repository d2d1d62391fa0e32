"""Cross-attention while tokens are drawn: all of them read one context, of which keys and values are made once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rqjax.mesh import constrain
from rqjax.nets.transformer import Block, Context, attention


class Crossed(NamedTuple):
    """What one layer makes of a context, or all `layers` in front."""

    keys: Float[Array, "*layers b m heads size"]
    values: Float[Array, "*layers b m heads size"]
    mask: Bool[Array, "*layers b 1 m"]


def crossed(block: Block, context: Context | None) -> Crossed | None:
    """What a layer makes of a context; None for one without cross-attention."""
    if not block.settings.context:
        return None
    assert context is not None  # the network that has such layers gives them one
    made = [layer(context.features) for layer in (block.cross_key, block.cross_value)]
    keys, values = (constrain(x, "data", None, "model", None) for x in made)
    return Crossed(keys, values, context.mask)


def crossed_by_all(blocks: Block, context: Context | None) -> Crossed | None:
    """What all layers of a stack make of a context, layers in front."""
    return jax.vmap(crossed, in_axes=(0, None))(blocks, context)


def read(block: Block, x: Float[Array, "b n dim"], crossed: Crossed | None) -> Float[Array, "b n dim"]:
    """The tokens with what they read from the context; as they are without one."""
    if crossed is None:
        return x
    (b, m, *_), n = crossed.keys.shape, x.shape[1]
    mask = jnp.broadcast_to(crossed.mask, (b, n, m))
    return x + block.cross_proj(attention(block.cross_query(block.cross_norm(x)), crossed.keys, crossed.values, mask))
