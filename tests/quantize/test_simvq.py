import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rqjax.quantize import QuantizerConfig, ResidualQuantizer, SimVQ, init_simvq

KEY = jax.random.key(0)
DIM = 8
CONFIG = QuantizerConfig(kind="simvq", codebook_size=(64,), depth=3)
encode = jax.jit(ResidualQuantizer.encode, static_argnames="train")


@pytest.fixture
def z():
    return jax.random.normal(jax.random.key(1), (16, 6, DIM))


@pytest.fixture(params=[(64,), (64, 32, 16)], ids=["shared", "separate"])
def quantizer(request):
    return dataclasses.replace(CONFIG, codebook_size=request.param).init(KEY, DIM)


def test_a_new_book_is_gaussian_times_a_small_matrix():
    book = init_simvq(KEY, 4096, 64)
    np.testing.assert_allclose(jnp.std(book.frozen), 64**-0.5, rtol=0.02)
    assert 0.9 * 64**-0.5 < jnp.abs(book.matrix).max() <= 64**-0.5
    np.testing.assert_allclose(book.table, book.frozen @ book.matrix, rtol=1e-5, atol=1e-6)
    codes = jnp.array([[3, 5], [4095, 0]])
    np.testing.assert_allclose(book.vectors(codes), book.table[codes], rtol=1e-5, atol=1e-6)


def test_loss_and_gradients_are_those_of_the_definition(quantizer, z):
    def expected(z, matrices):
        residual, total = z, 0.0
        for depth in range(3):
            book = quantizer.codebooks[min(depth, len(matrices) - 1)]
            table = book.frozen @ matrices[min(depth, len(matrices) - 1)]
            codes = jnp.argmin(jnp.sum((residual[..., None, :] - table) ** 2, axis=-1), axis=-1)
            found = table[codes]
            stop = jax.lax.stop_gradient
            total += jnp.mean((stop(residual) - found) ** 2) + 0.25 * jnp.mean((residual - stop(found)) ** 2)
            residual = residual - stop(found)
        return total / 3

    def ours(z, matrices):
        return encode(quantizer.with_parameters(matrices), z, KEY, train=True)[0].loss

    matrices = quantizer.parameters
    np.testing.assert_allclose(ours(z, matrices), expected(z, matrices), rtol=1e-5)
    found = jax.grad(ours, argnums=(0, 1))(z, matrices)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(jax.grad(expected, (0, 1))(z, matrices)), strict=True):
        assert np.abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_gradients_reach_the_matrix_by_the_loss_alone_and_never_the_frozen_part(quantizer, z):
    weights = jax.random.normal(jax.random.key(2), z.shape)

    def straight(z, quantizer):
        return jnp.sum(encode(quantizer, z, KEY, train=True)[0].quantized * weights)

    dz, dquantizer = jax.grad(straight, argnums=(0, 1))(z, quantizer)
    np.testing.assert_allclose(dz, weights, rtol=1e-6)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(dquantizer))
    dloss = jax.grad(lambda quantizer: encode(quantizer, z, KEY, train=True)[0].loss)(quantizer)
    for book in dloss.codebooks:
        assert (np.asarray(book.frozen) == 0).all()
        assert (np.asarray(book.matrix) != 0).any()


def test_a_step_changes_nothing_by_itself(quantizer, z):
    found, after = encode(quantizer, z, KEY, train=True)
    for a, b in zip(jax.tree.leaves(quantizer), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (found.metrics["restarted"] == 0).all()
    np.testing.assert_allclose(quantizer.embed(found.codes), found.quantized, rtol=1e-4, atol=1e-5)


def test_parameters_are_the_matrices(quantizer):
    twice = jax.tree.map(lambda x: 2 * x, quantizer.parameters)
    doubled = quantizer.with_parameters(twice)
    assert len(quantizer.parameters) == len(quantizer.codebooks)
    codes = jnp.zeros((1, 3), jnp.int32)
    np.testing.assert_allclose(doubled.embed(codes), 2 * quantizer.embed(codes), rtol=1e-5)
    assert isinstance(doubled.codebooks[0], SimVQ)


def test_training_uses_more_codes_than_the_frozen_codebook_does_and_errs_less():
    """Vectors on a plane in 8 dimensions, off 0: hardly any random code lies near it, until the matrix turns them."""
    plane = jax.random.normal(jax.random.key(3), (2, DIM))
    z = jax.random.normal(jax.random.key(4), (512, 2)) @ plane + 0.3
    quantizer = dataclasses.replace(CONFIG, depth=1).init(KEY, DIM)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(parameters, state):
        def loss(parameters):
            found, _ = quantizer.with_parameters(parameters).encode(z, KEY, True)
            return found.loss

        updates, state = optimizer.update(jax.grad(loss)(parameters), state)
        return optax.apply_updates(parameters, updates), state

    parameters, state = quantizer.parameters, optimizer.init(quantizer.parameters)
    for _ in range(200):
        parameters, state = step(parameters, state)
    before, _ = encode(quantizer, z, KEY, train=False)
    after, _ = encode(quantizer.with_parameters(parameters), z, KEY, train=False)
    assert after.metrics["usage"][0] > 1.5 * before.metrics["usage"][0]
    assert after.metrics["perplexity"][0] > 1.5 * before.metrics["perplexity"][0]
    assert after.metrics["commitment"] < 0.2 * before.metrics["commitment"]


def test_soft_codes_are_distances_to_the_products(z):
    assert CONFIG.soft
    quantizer = CONFIG.init(KEY, DIM)
    codes, residuals = quantizer.draw(z, KEY, 0.5, stochastic=False, chunk=4)
    np.testing.assert_array_equal(codes, encode(quantizer, z, KEY, train=False)[0].codes)
    shares = quantizer.distribution(residuals, 0.5)
    squared = jnp.sum((residuals[..., None, :] - quantizer.codebooks[0].table) ** 2, axis=-1)
    np.testing.assert_allclose(shares, jax.nn.softmax(-squared / 0.5), rtol=1e-4, atol=1e-7)
