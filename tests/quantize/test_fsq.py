import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.quantize import FSQ, QuantizerConfig, ResidualQuantizer

KEY = jax.random.key(0)
LEVELS = (8, 5, 4, 3)
CONFIG = QuantizerConfig(kind="fsq", levels=LEVELS, depth=3)
encode = jax.jit(ResidualQuantizer.encode, static_argnames="train")


@pytest.fixture
def z():
    return 2 * jax.random.normal(jax.random.key(1), (16, 8, 4))


def paper(z):
    """Round and bound of the paper, in float64, with the shift for which 0 stays 0."""
    levels = np.array(LEVELS)
    half, offset = (levels - 1) * (1 - 1e-3) / 2, np.where(levels % 2 == 1, 0, 0.5)
    bounded = np.tanh(np.asarray(z, np.float64) + np.arctanh(offset / half)) * half - offset
    return bounded / (levels // 2), np.round(bounded) / (levels // 2)


def test_one_depth_is_the_papers(z):
    found, _ = FSQ(LEVELS).encode(z, KEY, train=True)
    bounded, rounded = paper(z)
    np.testing.assert_allclose(FSQ(LEVELS).project(z), bounded, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.quantized, rounded, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(FSQ(LEVELS).project(jnp.zeros((1, 4))).round(6), jnp.zeros((1, 4)))
    np.testing.assert_array_equal(FSQ(LEVELS).vectors(FSQ(LEVELS).nearest(jnp.zeros((1, 4)))), jnp.zeros((1, 4)))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_every_code_is_the_nearest_to_its_own_vector(index):
    book = FSQ(LEVELS, index)
    assert (book.size, book.dim) == (480, 4)
    codes = jnp.arange(480, dtype=jnp.int32)
    vectors = book.vectors(codes)
    np.testing.assert_array_equal(book.nearest(vectors), codes)
    first = np.asarray(vectors[:8, 0])  # the first dimension changes fastest, by equal steps
    np.testing.assert_allclose(np.diff(first), 7.0**-index / 4, rtol=1e-5)
    assert (np.asarray(vectors[:8, 1:]) == np.asarray(vectors[0, 1:])).all()


def test_each_depth_cuts_the_error_by_its_levels(z):
    quantizer = CONFIG.init(KEY, 4)
    found, same = encode(quantizer, z, KEY, train=True)
    x = quantizer.codebooks[0].project(z)
    for depth in range(3):
        error = np.abs(x - found.partial[depth]).reshape(-1, 4).max(0)
        widest = np.array([0.5 / (n // 2) / (n - 1) ** depth for n in LEVELS])
        assert (error <= widest + 1e-6).all()
        assert (error > 0.8 * widest).all()  # so the levels lie where the residuals are
    np.testing.assert_allclose(quantizer.embed(found.codes), found.partial[-1], rtol=1e-5, atol=1e-6)
    assert quantizer.sizes == CONFIG.sizes == (480,) * 3
    assert 0 <= found.codes.min() <= found.codes.max() < 480
    assert jax.tree.leaves(quantizer) == jax.tree.leaves(same) == []


def test_there_is_no_loss_and_nothing_to_train(z):
    quantizer = CONFIG.init(KEY, 4)
    found, _ = encode(quantizer, z, KEY, train=True)
    assert found.loss == 0
    assert found.metrics["commitment"] > 0
    assert (found.metrics["restarted"] == 0).all()
    assert quantizer.parameters is None


def test_gradients_are_those_of_the_bound(z):
    quantizer = CONFIG.init(KEY, 4)
    weights = jax.random.normal(jax.random.key(2), z.shape)
    ours = jax.grad(lambda z: jnp.sum(weights * encode(quantizer, z, KEY, train=True)[0].quantized))(z)
    bound = jax.grad(lambda z: jnp.sum(weights * quantizer.codebooks[0].project(z)))(z)
    # 1 - tanh^2 has an error of 2 eps, whatever its size, and is multiplied by a weight of up to 4
    np.testing.assert_allclose(ours, bound, rtol=1e-5, atol=8 * float(jnp.finfo(jnp.float32).eps))
    assert (np.abs(bound) > 0).mean() > 0.9


def test_there_are_no_soft_codes(z):
    assert not CONFIG.soft
    with pytest.raises(ValueError, match="FSQ has no distribution over its codes"):
        CONFIG.init(KEY, 4).draw(z, KEY, 0.5, True, 8)
