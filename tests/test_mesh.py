import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from rqjax import mesh
from rqjax.errors import InputError


def test_shape_and_refusal():
    assert dict(mesh.make_mesh().shape) == {"data": 8, "model": 1}
    assert dict(mesh.make_mesh("2x4").shape) == {"data": 2, "model": 4}
    assert dict(mesh.make_mesh("2x2x2").shape) == {"replica": 2, "data": 2, "model": 2}
    with pytest.raises(InputError, match="mesh is '3x2', 6 devices: there are 8"):
        mesh.make_mesh("3x2")
    for broken in ("8", "8x0", "axb", "1x2x2x2"):
        with pytest.raises(InputError, match="DATAxMODEL"):
            mesh.make_mesh(broken)


def test_auto_gives_every_device_a_row_and_splits_layers_that_are_too_large():
    def state(dim, heads):
        shape = jax.ShapeDtypeStruct
        return {"blocks": {"query": {"kernel": shape((4, dim, heads, dim // heads), jnp.float32)}}}

    assert mesh.auto_shape(jax.devices(), 16, state(64, 4)) == "1x8x1"
    assert mesh.auto_shape(jax.devices(), 4, state(64, 4)) == "1x4x2"
    assert mesh.auto_shape(jax.devices(), 16, state(2**15, 8)) == "1x2x4"
    with pytest.raises(InputError, match=r"no mesh of 8 devices splits 3 rows.*a multiple of 8"):
        mesh.auto_shape(jax.devices(), 3, state(64, 4))


@pytest.mark.parametrize(("devices", "shape"), [(16, "1x16x1"), (32, "1x16x2"), (64, "1x16x4"), (128, "1x16x8")])
def test_auto_splits_heads_where_rows_do_not_go_round(devices, shape):
    """240 rows, the batch of every published DQ-Transformer, on more than 16 devices."""
    heads = {"blocks": {"query": {"kernel": jax.ShapeDtypeStruct((18, 1024, 8, 128), jnp.float32)}}}
    assert mesh.auto_shape(jax.devices()[:1] * devices, 240, heads) == shape


@pytest.mark.parametrize(
    ("rows", "remedy"),
    [(12, "as 8 or 16, or a mesh, as 4x2, which gives 2 devices the same work$"), (3, "as 8, or a mesh$")],
)
def test_a_batch_that_no_mesh_splits_is_refused_with_one_that_is_split(rows, remedy):
    """A state without heads, as that of convolutions, has no use for a model axis."""
    with pytest.raises(InputError, match=remedy):
        mesh.auto_shape(jax.devices(), rows, {"kernel": jax.ShapeDtypeStruct((3, 3, 8, 8), jnp.float32)})


def test_placement_is_by_rule_and_by_the_largest_divisible_dimension():
    zeros = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
    state = {
        "big": zeros(24, 4096),
        "odd": zeros(7, 8 * 1250, 9),
        "prime": zeros(997, 101),
        "small": zeros(64),
        "codebooks": {"0": {"embed": zeros(4096, 64)}},
        "blocks": {
            "query": {"kernel": zeros(8, 512, 4, 128), "bias": zeros(8, 4, 128)},
            "up": {"kernel": zeros(8, 512, 2048)},
            "down": {"kernel": zeros(8, 2048, 512)},
            "norm": {"scale": zeros(65536, 8)},
        },
        "content_head": {"kernel": zeros(512, 1027)},
    }
    specs = jax.tree.map(lambda s: s.spec, mesh.shard_state(state, mesh.make_mesh()))
    assert specs["big"] == P(None, "data")
    assert specs["odd"] == P(None, "data", None)
    assert specs["prime"] == specs["small"] == specs["codebooks"]["0"]["embed"] == P()
    assert specs["blocks"]["up"]["kernel"] == P(None, None, "data")
    assert specs["blocks"]["norm"]["scale"] == P(None, "data")  # never along layers
    specs = jax.tree.map(lambda s: s.spec, mesh.shard_state(state, mesh.make_mesh("2x4"), split_codebooks=True))
    assert specs["codebooks"]["0"]["embed"] == P("data", None)
    assert specs["blocks"]["query"] == {"kernel": P(None, "data", "model", None), "bias": P(None, "model", None)}
    assert specs["blocks"]["up"]["kernel"] == P(None, "data", "model")
    assert specs["blocks"]["down"]["kernel"] == P(None, "model", "data")
    assert specs["content_head"]["kernel"] == P("data", None)  # an odd vocabulary is not split
    with pytest.raises(InputError, match="8 devices on the mesh's model axis do not divide blocks/query/bias"):
        mesh.shard_state(state, mesh.make_mesh("1x8"))


def test_constrain_is_nothing_outside_a_mesh_and_pins_inside():
    x = jnp.ones((8, 4))
    assert mesh.constrain(x, "data") is x
    with jax.set_mesh(mesh.make_mesh()):
        assert jax.jit(lambda x: mesh.constrain(x, "data"))(x).sharding.spec == P("data")
    with jax.set_mesh(mesh.make_mesh("2x4x1")):
        assert jax.jit(lambda x: mesh.constrain(x, "data"))(x).sharding.spec == P(("replica", "data"))
