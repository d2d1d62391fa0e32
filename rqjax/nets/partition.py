"""How convolutions lie on a mesh: images stay where they are, and weights come to them.

Left to itself, the partitioner would at times gather the activations of the whole batch to meet a kernel that is split.
"""

from typing import Any

import jax
from flax.nnx.nn.dtypes import promote_dtype
from jaxtyping import Array, Float

from rqjax.mesh import constrain, shards


def by_batch(x: Float[Array, "b *rest"]) -> Float[Array, "b *rest"]:
    """x, pinned to the data axis of the mesh where that divides the batch; a preview of one image stays whole."""
    return x if x.shape[0] % shards(jax.sharding.get_abstract_mesh()) else constrain(x, "data")


def gathered(arrays: Any, /, *, dtype: Any = None, inexact: bool = True) -> Any:
    """(inputs, kernel, bias) in `dtype`, inputs by batch and weights whole on every device: nnx.Conv's promote_dtype.

    Weights are cast where they live, so that what travels has the size of `dtype`.
    """
    inputs, *weights = promote_dtype(arrays, dtype=dtype, inexact=inexact)
    return (by_batch(inputs), *(None if x is None else constrain(x) for x in weights))
