"""Cross-attention while tokens are drawn: all of them read one context, of which keys and values are made once."""

import jax
from jaxtyping import Array, Float

from rqjax.mesh import constrain
from rqjax.nets.transformer import Block, Context, Crossed


def crossed(block: Block, context: Context | None) -> Crossed | None:
    """The keys and values that a layer makes of a context; None for one without cross-attention."""
    if not block.settings.context:
        return None
    assert context is not None  # the network that has such layers gives them one
    made = block.crossed(context)
    keys, values = (constrain(x, "data", None, "model", None) for x in (made.keys, made.values))
    return Crossed(keys, values, made.mask)


def crossed_by_all(blocks: Block, context: Context | None) -> Crossed | None:
    """The keys and values that all layers of a stack make of a context, layers in front."""
    return jax.vmap(crossed, in_axes=(0, None))(blocks, context)


def read(block: Block, x: Float[Array, "b n dim"], crossed: Crossed | None) -> Float[Array, "b n dim"]:
    """The tokens with what they read from the context; as they are without one."""
    return x if crossed is None else block.read(x, crossed)
