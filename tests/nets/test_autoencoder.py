import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rqjax.nets import autoencoder as ae
from rqjax.nets.init import torch_uniform
from tests.conftest import assert_same_gradients

SIZES = {"ch": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (4,), "resolution": 8, "z_channels": 6}
FLOAT = {"dtype": jnp.float32}


def rngs():
    return nnx.Rngs(0)


def run(f, *args):
    return jax.jit(f)(*args)


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(1), (2, 6, 6, 64))


def test_group_norm_is_that_of_the_definition(x):
    norm = ae.group_norm(64, rngs=rngs(), **FLOAT)
    groups = np.asarray(3 + 10 * x, np.float64).reshape(2, 36, 32, 2)
    mean, var = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    expected = ((groups - mean) / np.sqrt(var + 1e-6)).reshape(x.shape)
    np.testing.assert_allclose(norm(3 + 10 * x), expected, rtol=1e-4, atol=1e-5)


def test_group_norm_takes_statistics_in_float32():
    """In bfloat16 the mean of numbers near 1000 is off by more than their spread."""
    x = 1000 + 8 * jax.random.normal(jax.random.key(2), (1, 16, 16, 32))
    half = ae.group_norm(32, rngs=rngs(), dtype=jnp.bfloat16)(x.astype(jnp.bfloat16))
    exact = ae.group_norm(32, rngs=rngs(), **FLOAT)(x.astype(jnp.bfloat16).astype(jnp.float32))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), exact, rtol=0.01, atol=0.01)


def test_attention_is_that_of_the_definition(x):
    block = ae.AttnBlock(64, rngs=rngs(), **FLOAT)
    y = np.asarray(block.norm(x)).reshape(2, 36, 64)

    def layer(module, x):
        return x @ np.asarray(module.kernel[...])[0, 0] + np.asarray(module.bias[...])

    q, k, v = (layer(module, y) for module in (block.q, block.k, block.v))
    weights = np.asarray(jax.nn.softmax(q @ k.transpose(0, 2, 1) / 8))
    expected = np.asarray(x) + layer(block.proj_out, weights @ v).reshape(x.shape)
    np.testing.assert_allclose(block(x), expected, rtol=1e-4, atol=1e-5)


def test_downsample_pads_at_the_end_only(x):
    down = ae.Downsample(64, rngs=rngs(), **FLOAT)
    kernel, bias = np.asarray(down.conv.kernel[...]), np.asarray(down.conv.bias[...])
    y = down(x)
    assert y.shape == (2, 3, 3, 64)
    patch = np.asarray(x)[0, :3, :3]
    np.testing.assert_allclose(y[0, 0, 0], np.einsum("hwi,hwio->o", patch, kernel) + bias, rtol=1e-3, atol=1e-4)
    corner = np.asarray(x)[0, 4:, 4:]
    np.testing.assert_allclose(
        y[0, 2, 2], np.einsum("hwi,hwio->o", corner, kernel[:2, :2]) + bias, rtol=1e-3, atol=1e-4
    )


def test_upsample_repeats_pixels_before_it_convolves(x):
    up = ae.Upsample(64, rngs=rngs(), **FLOAT)
    np.testing.assert_allclose(up(x), up.conv(jnp.kron(x, jnp.ones((1, 2, 2, 1)))), rtol=1e-5, atol=1e-5)


def test_levels_are_taps_of_the_way_down():
    encoder = ae.Encoder(ae.LevelConfig(**SIZES, remat=False), rngs())
    image = jax.random.normal(jax.random.key(3), (2, 8, 8, 3))
    (high, low), z = run(lambda encoder, image: (encoder.levels(image), encoder(image)), encoder, image)
    assert (high.shape, low.shape) == ((2, 8, 8, 32), (2, 4, 4, 64))
    again = run(lambda encoder, high: encoder.down[1](encoder.down[0].downsample(high)), encoder, high)
    np.testing.assert_allclose(again, low, rtol=1e-5, atol=1e-5)
    assert z.shape == (2, 4, 4, 6)
    assert [len(level.attn) for level in encoder.down] == [0, 1]
    assert encoder.down[1].downsample is None


def test_decoder_is_its_features_and_its_last_layer():
    decoder = ae.Decoder(ae.LevelConfig(**SIZES, remat=False), rngs())
    z = jax.random.normal(jax.random.key(4), (2, 4, 4, 6))
    features, image = run(lambda decoder, z: (decoder.features(z), decoder(z)), decoder, z)
    assert features.shape == (2, 8, 8, 32)
    np.testing.assert_allclose(decoder.conv_out(features), image, rtol=1e-5, atol=1e-5)
    assert [len(level.block) for level in decoder.up] == [2, 2]
    assert [len(level.attn) for level in decoder.up] == [0, 2]
    assert decoder.up[0].upsample is None


def test_pixels_are_float32_also_when_features_are_not():
    decoder = ae.Decoder(ae.LevelConfig(**SIZES, dtype="bfloat16", remat=True), rngs())
    z = jax.random.normal(jax.random.key(4), (2, 4, 4, 6))
    assert jax.eval_shape(decoder.features, z).dtype == jnp.bfloat16
    image = run(lambda decoder, z: decoder(z), decoder, z)
    assert image.dtype == jnp.float32
    assert len(np.unique(image)) > 0.95 * image.size
    assert {leaf.dtype for leaf in jax.tree.leaves(decoder)} == {jnp.dtype("float32")}


def test_rematerialisation_changes_no_gradient(x):
    def gradient(remat, keep_products=False):
        settings = ae.LevelConfig(**SIZES | {"attn_resolutions": (8,)}, remat=remat, keep_products=keep_products)
        level = ae.Level(settings, 0, 64, 1, rngs())
        return jax.jit(jax.grad(lambda level, x: jnp.sum(level(x) ** 2), argnums=(0, 1)))(level, x)

    # forward and backward: two convolutions of 3x3x64 terms, attention over 64 channels and 36 places; then all places
    terms = 2 * (2 * 9 * 64 + 4 * 64 + 2 * 36) + 2 * 36
    for keep_products in (False, True):  # an attention's key bias has no gradient but rounding
        assert_same_gradients(gradient(True, keep_products), gradient(False), terms)


def test_rematerialisation_keeps_fewer_activations(x):
    def kept(remat, keep_products=False):
        settings = ae.LevelConfig(**SIZES | {"attn_resolutions": ()}, remat=remat, keep_products=keep_products)
        level = ae.Level(settings, 1, 64, 2, rngs())
        _, backward = jax.vjp(lambda level, x: level(x), level, x)
        return sum(leaf.size for leaf in jax.tree.leaves(backward) if leaf.shape == x.shape)

    assert kept(True) < kept(True, keep_products=True) < kept(False) / 2
    assert kept(True, keep_products=True) == kept(True) + 2 * x.size  # the first convolution's results of two blocks


def test_initial_values_are_as_pytorch_draws_them():
    kernel = ae.conv(64, 128, 3, rngs=rngs(), **FLOAT).kernel[...]
    bound = (64 * 9) ** -0.5
    assert 0.99 * bound < float(jnp.abs(kernel).max()) <= bound
    np.testing.assert_allclose(jnp.std(kernel), bound / 3**0.5, rtol=0.02)
    bias = torch_uniform(64 * 9)(jax.random.key(0), (5000,))
    assert 0.99 * bound < float(jnp.abs(bias).max()) <= bound


def test_a_batch_that_the_mesh_does_not_divide_runs_too():
    mesh = jax.make_mesh((8, 1), ("data", "model"), (jax.sharding.AxisType.Auto,) * 2)
    block = ae.ResBlock(32, 32, rngs=rngs(), **FLOAT)
    x = jax.random.normal(jax.random.key(5), (3, 4, 4, 32))
    with jax.set_mesh(mesh):
        y = jax.jit(lambda block, x: block(x))(block, x)
    np.testing.assert_allclose(y, block(x), rtol=1e-5, atol=1e-5)
