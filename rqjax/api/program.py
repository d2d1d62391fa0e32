"""The program that draws images, as one function of shapes: `rqjax compile --sample` compiles it for absent devices."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Key, PyTree, UInt8

from rqjax.api.pixels import decoded
from rqjax.interface import Condition, Prior, Tokenizer
from rqjax.mesh import rows, with_sharding
from rqjax.nets.precision import computed, computing_in, made_in
from rqjax.stages.predict import PredictConfig

Sampler = tuple[jax.stages.Wrapped, tuple[PyTree[jax.ShapeDtypeStruct], ...]]


def sampler(stage: PredictConfig, tokenizer: PyTree, images: int, mesh: Mesh, dtype: str) -> Sampler:
    """The function from both models, `images` labels and keys to pixels, and the shapes of these.

    As LoadedPrior draws with `dtype`: both models whole on every device, the prior's arrays in `dtype` but for its
    norms, the rows of images split over the mesh. `tokenizer` has shapes alone.
    """

    def draw(
        prior: Prior, tokenizer: Tokenizer, labels: Int[Array, "b ..."], keys: Key[Array, "b"]
    ) -> UInt8[Array, "b height width 3"]:
        return decoded(tokenizer, prior.generate(tokenizer, labels, keys, stage.draw))

    whole, by_row = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, rows(mesh))
    on = mesh.devices.flat[0].platform  # which may be that of absent devices
    prior = jax.eval_shape(lambda key: made_in(stage.model, key, dtype, on), jax.random.key(0))
    keys = jax.ShapeDtypeStruct((images,), jax.eval_shape(jax.random.key, 0).dtype)
    return jax.jit(draw), (
        with_sharding(prior, whole),
        with_sharding(computing_in(tokenizer, computed(dtype, on)), whole),
        with_sharding(condition_shape(stage.model.condition, images), by_row),
        with_sharding(keys, by_row),
    )


def condition_shape(condition: Condition | None, images: int) -> jax.ShapeDtypeStruct:
    """The values of a prior's condition, texts [images length] or classes [images], or the classes of a classifier."""
    shape = (images, condition.length) if condition and condition.field == "text" else (images,)
    return jax.ShapeDtypeStruct(shape, jnp.int32)
