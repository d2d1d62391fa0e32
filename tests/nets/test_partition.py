import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from rqjax import mesh
from rqjax.cost import hlo
from rqjax.nets import autoencoder, discriminator, partition

LAYERS = {
    "block": lambda rngs: autoencoder.ResBlock(32, 64, rngs=rngs, dtype=jnp.float32),
    "attention": lambda rngs: autoencoder.AttnBlock(32, rngs=rngs, dtype=jnp.float32),
    "up": lambda rngs: autoencoder.Upsample(32, rngs=rngs, dtype=jnp.float32),
    "down": lambda rngs: autoencoder.Downsample(32, rngs=rngs, dtype=jnp.float32),
    "discriminator": lambda rngs: discriminator.Block(32, 64, 2, dtype=jnp.float32, rngs=rngs),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_weights_come_to_the_images_and_not_the_other_way(layer):
    """Forward and backward over eight devices with split kernels: nothing as large as an image's activations moves."""
    over = mesh.make_mesh("8x1")
    weights = jax.eval_shape(lambda: LAYERS[layer](nnx.Rngs(0)))
    places = mesh.shard_state(weights, over, min_size=64)
    assert any(any(place.spec) for place in jax.tree.leaves(places))
    rows = jax.NamedSharding(over, mesh.rows(over))
    x = jax.ShapeDtypeStruct((64, 32, 32, 32), jnp.float32, sharding=rows)
    step = jax.jit(jax.grad(lambda weights, x: jnp.mean(weights(x) ** 2), argnums=(0, 1)), out_shardings=(places, rows))
    with jax.set_mesh(over):
        program = hlo.parse(step.lower(mesh.with_sharding(weights, places), x).compile().as_text())
    moved = [i for name in program.times for i in program.computations[name].values() if i.opcode in hlo.COLLECTIVES]
    largest = max(w.size * 4 for w in jax.tree.leaves(weights))
    assert {i.opcode for i in moved} == {"all-gather", "all-reduce"}
    assert max(size for i in moved for size in i.sizes) <= largest < x.size * 4 // 8


@pytest.mark.parametrize(("devices", "rows"), [(1, 12), (8, 96), (8, 40), (8, 13), (8, 8)])
def test_pieces_give_each_row_what_it_gives_alone_and_move_nothing(devices, rows):
    over = mesh.make_mesh(f"{devices}x1", jax.devices()[:devices])
    whole = rows % devices != 0
    place = jax.NamedSharding(over, jax.sharding.PartitionSpec() if whole else mesh.rows(over))
    x, y = jnp.arange(rows * 6.0).reshape(rows, 2, 3), jnp.arange(rows)
    seen = []

    def compute(part):
        seen.append(len(part[1]))
        return {"sum": part[0].sum((1, 2)) + part[1], "same": part[1]}

    step = jax.jit(lambda x, y: partition.in_pieces(compute, (x, y), 5))
    with jax.set_mesh(over):
        found = step(*jax.device_put((x, y), place))
        program = hlo.parse(step.lower(*jax.device_put((x, y), place)).compile().as_text())
    assert jnp.array_equal(found["sum"], x.sum((1, 2)) + y)
    assert jnp.array_equal(found["same"], y)
    assert hlo.collectives(program) == {}
    assert max(seen) <= 5 * devices
