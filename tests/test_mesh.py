import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from rqjax import mesh
from rqjax.errors import InputError


def test_shape_and_refusal():
    assert dict(mesh.make_mesh().shape) == {"data": 8, "model": 1}
    assert dict(mesh.make_mesh(4).shape) == {"data": 2, "model": 4}
    with pytest.raises(InputError, match="model_parallel=3 does not divide the 8 devices"):
        mesh.make_mesh(3)


def test_placement_is_rule_then_largest_divisible_dimension_then_whole():
    state = {
        "big": jnp.zeros((24, 4096)),
        "odd": jnp.zeros((7, 8 * 1250, 9)),
        "prime": jnp.zeros((997, 101)),
        "small": jnp.zeros(64),
        "ruled": {"kernel": jnp.zeros((512, 512))},
    }
    rules = (("ruled/kernel", P(None, "model")),)
    specs = jax.tree.map(lambda s: s.spec, mesh.shard_state(state, mesh.make_mesh(), rules))
    assert specs["big"] == P(None, "data")
    assert specs["odd"] == P(None, "data", None)
    assert specs["prime"] == P(None, None)
    assert specs["small"] == P()
    assert specs["ruled"]["kernel"] == P(None, "model")


def test_constrain_is_nothing_outside_a_mesh_and_pins_inside():
    x = jnp.ones((8, 4))
    assert mesh.constrain(x, "data") is x
    with jax.set_mesh(mesh.make_mesh()):
        assert jax.jit(lambda x: mesh.constrain(x, "data"))(x).sharding.spec == P("data")
