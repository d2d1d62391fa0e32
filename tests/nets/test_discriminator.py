import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rqjax.errors import InputError
from rqjax.mesh import make_mesh
from rqjax.nets.discriminator import Discriminator, discriminator_loss, generator_loss
from rqjax.official.discriminator import entries, from_torch, to_torch
from rqjax.torchfile.table import export_arrays
from tests.conftest import Golden, assert_digests, nhwc


@pytest.fixture(scope="module")
def case():
    return Golden("rq/patch_discriminator")


@pytest.fixture(scope="module")
def official(case):
    return from_torch(case.state_dict())


def test_logits_and_losses_equal_the_reference(case, official):
    real, fake = official(nhwc(case.data["real"])), official(nhwc(case.data["fake"]))
    np.testing.assert_allclose(real, case.data["train_logits_real"][:, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fake, case.data["train_logits_fake"][:, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(discriminator_loss("hinge", real, fake), case.data["hinge_d"], rtol=1e-4)
    np.testing.assert_allclose(discriminator_loss("vanilla", real, fake), case.data["vanilla_d"], rtol=1e-4)
    np.testing.assert_allclose(generator_loss(fake), case.data["vanilla_g"], rtol=1e-4)


def test_gradients_equal_the_reference(case, official):
    def loss(d):
        return discriminator_loss("hinge", d(nhwc(case.data["real"])), d(nhwc(case.data["fake"])))

    grads = export_arrays(entries(official), jax.grad(loss)(official))
    assert_digests(grads, case.meta["grad_digest"])


def test_export_is_the_inverse_of_import_but_for_running_statistics(case, official):
    exported = to_torch(official)
    assert {key: list(value.shape) for key, value in exported.items()} == case.meta["param_shapes"]
    for key, value in case.state_dict().items():
        if "running" not in key:
            np.testing.assert_array_equal(exported[key], value)


@pytest.mark.parametrize(
    ("num_layers", "count", "patches", "out"), [(2, 663_361, 62, "main.8"), (3, 2_765_633, 30, "main.11")]
)
def test_published_geometries(num_layers, count, patches, out):
    abstract = jax.eval_shape(lambda: Discriminator(64, num_layers, rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract)) == count
    logits = jax.eval_shape(lambda d, x: d(x), abstract, jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32))
    assert logits.shape == (1, patches, patches)
    assert list(entries(abstract))[-1].key == f"{out}.bias"


def test_initialisation_is_that_of_the_paper():
    d = Discriminator(64, 2, rngs=nnx.Rngs(0))
    block = d.blocks[1]
    assert float(jnp.std(block.conv.kernel[...])) == pytest.approx(0.02, rel=0.02)
    assert float(jnp.mean(block.norm.scale[...])) == pytest.approx(1, abs=0.005)
    assert float(jnp.std(block.norm.scale[...])) == pytest.approx(0.02, rel=0.2)
    assert 0.9 * 48**-0.5 < float(jnp.abs(d.conv_in.bias[...]).max()) <= 48**-0.5


def test_groups_are_normalised_apart():
    d = Discriminator(8, 2, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (6, 16, 16, 3))
    apart = jnp.concatenate([d(x[:2]), d(x[2:4]), d(x[4:])])
    np.testing.assert_allclose(d(x, 3), apart, atol=1e-5)
    assert float(jnp.abs(d(x) - apart).max()) > 1e-3
    with pytest.raises(InputError, match="disc_groups=4 does not divide the batch of 6"):
        d(x, 4)


def test_statistics_are_those_of_the_global_batch_over_devices():
    d = Discriminator(8, 2, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (8, 16, 16, 3)) * jnp.arange(1.0, 9)[:, None, None, None]
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        split = jax.jit(lambda d, x: d(x))(d, jax.device_put(x, NamedSharding(mesh, P("data"))))
    np.testing.assert_allclose(split, d(x), atol=1e-5)


def test_a_discriminator_learns_to_tell_smooth_from_noisy():
    noise = jax.random.normal(jax.random.key(1), (8, 16, 16, 3))
    smooth = jnp.broadcast_to(noise[:, :1, :1], noise.shape) * 0.5

    @jax.jit
    def step(d):
        loss, grads = jax.value_and_grad(lambda d: discriminator_loss("hinge", d(smooth), d(noise)))(d)
        return loss, jax.tree.map(lambda p, g: p - 0.05 * g, d, grads)

    d = Discriminator(8, 2, rngs=nnx.Rngs(0))
    losses = []
    for _ in range(30):
        loss, d = step(d)
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
