import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rqjax.errors import InputError
from rqjax.mesh import make_mesh, shard_state
from rqjax.nets.patches import PatchConfig, PatchDecoder, PatchEncoder, merged
from rqjax.official.convert import to_torch
from rqjax.quantize.config import QuantizerConfig
from rqjax.run.config import from_dict, to_dict
from rqjax.store.arrays import to_arrays
from tests.conftest import assert_near, assert_same_gradients, transformer_terms
from tests.small_dq import patch_config as dq_config
from tests.small_rq import patch_config as rq_config

SMALL = PatchConfig(resolution=8, patch_size=2, dim=16, layers=2, heads=2)


def images(size=8, batch=2):
    return jax.random.uniform(jax.random.key(1), (batch, size, size, 3), minval=-1)


def strong(tree):
    """Away from the initialisation, where layers hardly look at each other."""
    return jax.tree.map(lambda x: 8 * x if x.ndim > 1 else x, tree)


@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "rope": True}])
def test_every_place_sees_all_and_knows_where_it_is(options):
    config = dataclasses.replace(SMALL, **options)
    encoder, image = strong(PatchEncoder(config, nnx.Rngs(0))), images()
    z = encoder(image)
    assert z.shape == (2, 4, 4, 16)
    changed = encoder(image.at[:, :2, :2].add(0.5))  # the first patch alone
    assert float(jnp.abs(changed - z).min(-1).max()) > 0
    assert float(jnp.abs(changed - z)[:, 3, 3].max()) > 1e-4
    same = encoder(jnp.zeros_like(image))[0].reshape(16, 16)
    assert float(jnp.abs(same[1:] - same[0]).max(-1).min()) > 1e-4  # equal patches differ by their places


def test_a_decoder_puts_patches_where_their_vectors_are():
    decoder = PatchDecoder(SMALL, nnx.Rngs(0))
    features = jax.random.normal(jax.random.key(2), (1, 4, 4, 16))
    image = decoder.last_layer(features)
    assert image.shape == (1, 8, 8, 3)
    moved = decoder.last_layer(features.at[0, 1, 2].add(1.0)) - image
    np.testing.assert_array_equal(np.argwhere(np.abs(moved).max(-1) > 0)[:, 1:].min(0), [2, 4])
    np.testing.assert_array_equal(np.argwhere(np.abs(moved).max(-1) > 0)[:, 1:].max(0), [3, 5])
    z = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(merged(z, 2)[0, 0, 1], [2, 3, 6, 7])


@pytest.mark.parametrize("config", [rq_config(), dq_config(), dq_config(grains=3)], ids=["rq", "dq", "dq3"])
def test_gradients_reach_every_array(config):
    config.check()
    model = jax.jit(config.init)(jax.random.key(0))

    @jax.jit
    def gradient(network):
        def loss(network):
            forward = model.with_trained(network).train_forward(images(), jax.random.key(0))
            return jnp.mean(jnp.square(forward.reconstruction - images())) + forward.loss

        return jax.grad(loss)(network)

    zero = [name for name, x in to_arrays(gradient(strong(model.trained))).items() if not np.any(x)]
    # softmax over keys does not see what is added to all of them
    assert [name for name in zero if not name.endswith("blocks/key/bias")] == []


def test_recomputation_changes_no_gradient_and_bfloat16_stays_near():
    image = images()

    def encoded(**changes):
        encoder = strong(PatchEncoder(dataclasses.replace(SMALL, **changes), nnx.Rngs(0)))
        return encoder, jax.jit(jax.grad(lambda encoder: jnp.sum(jnp.square(encoder(image)))))(encoder)

    plain, expected = encoded()
    assert_same_gradients(encoded(remat=True)[1], expected, transformer_terms(layers=2, dim=16, tokens=2 * 16))
    assert_near(encoded(dtype="bfloat16")[0](image), plain(image), 0.05)


def test_eight_devices_equal_one():
    """Gradients on a mesh of 4x2, each array where its name puts it, and on one device."""
    decoder, mesh = strong(PatchDecoder(SMALL, nnx.Rngs(0))), make_mesh("4x2")
    z = jax.random.normal(jax.random.key(1), (4, 4, 4, 16))
    gradient = jax.grad(lambda decoder, z: jnp.mean(jnp.square(decoder(z))))
    expected = jax.jit(gradient)(decoder, z)
    with jax.set_mesh(mesh):
        placed = jax.device_put(decoder, shard_state(decoder, mesh, min_size=64))
        found = jax.jit(gradient)(placed, jax.device_put(z, NamedSharding(mesh, P("data"))))
    split = placed.transformer.stack.blocks.query.kernel[...].sharding.spec
    assert set(split) >= {"data", "model"}
    assert_same_gradients(jax.device_get(found), expected, transformer_terms(layers=2, dim=16, tokens=4 * 16))


@pytest.mark.parametrize("config", [rq_config(), dq_config()], ids=["rq", "dq"])
def test_models_round_trip_as_codes_and_as_json_and_have_no_official_form(config):
    assert from_dict(to_dict(config)) == config
    model = jax.jit(config.init)(jax.random.key(0))
    decoded, whole = jax.jit(lambda m, x: (m.decode_codes(m.encode(x)), m.reconstruct(x)))(model, images())
    np.testing.assert_allclose(decoded, whole, atol=1e-5)
    with pytest.raises(InputError, match="transformers over patches have no official form"):
        to_torch(model)
    with pytest.raises(InputError, match="expects 8x8"):
        model.encode(images(16))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (rq_config(patch_size=3), "patch_size=3 does not divide resolution=8"),
        (rq_config(heads=3), "heads=3 does not divide dim=16"),
        (rq_config(layers=0), "layers is 0"),
        (rq_config(heads=8, rope=True), "rope with heads of 2 features"),
        (rq_config(code_shape=(3, 3)), "code grid"),
        (rq_config(quantizer=QuantizerConfig(kind="fsq")), "fsq rounds"),
        (rq_config(dtype="float16"), "dtype"),
        (dq_config(patch_size=8), "grains is 2 on 1x1 patches"),
        (dq_config(codebook_size=0), "codebook_size is 0"),
    ],
)
def test_values_that_make_no_model_are_refused(config, message):
    with pytest.raises(InputError, match=message):
        config.check()
