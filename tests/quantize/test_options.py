"""Options of quantizers: starts, lengths, gradients, drawn codes, dropout."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.quantize import QuantizerConfig, ResidualQuantizer
from rqjax.quantize.gradient import rotate, unit
from tests.conftest import rounding

KEY = jax.random.key(0)
DIM = 6
CONFIG = QuantizerConfig(codebook_size=(24,), depth=3, decay=(0.9,))
encode = jax.jit(ResidualQuantizer.encode, static_argnames="train")


def make(dim=DIM, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    config.check(dim)
    return config.init(KEY, dim)


@pytest.fixture
def z():
    return jax.random.normal(jax.random.key(1), (32, 5, DIM))


def test_rotation_is_the_quantized_vector_and_turns_gradients_as_it_turns_the_vector():
    x, q, upstream = jax.random.normal(jax.random.key(2), (3, 50, DIM))
    value, back = jax.vjp(lambda x: rotate(x, q), x)
    np.testing.assert_allclose(value, q, rtol=1e-4, atol=1e-5)
    (grad,) = back(upstream)
    for e, q1, g, found in zip(*map(np.asarray, (x, q, upstream, grad)), strict=True):
        scale = np.linalg.norm(q1) / np.linalg.norm(e)
        assert np.linalg.norm(found) == pytest.approx(scale * np.linalg.norm(g), rel=1e-4)
        # the angle between gradient and vector is that between gradient and quantized vector
        np.testing.assert_allclose(found @ e / np.linalg.norm(e), scale * g @ q1 / np.linalg.norm(q1), atol=1e-4)
        # directions orthogonal to both are only scaled
        basis, _ = np.linalg.qr(np.stack([e, q1], axis=1))
        rest = g - basis @ (basis.T @ g)
        np.testing.assert_allclose(found - basis @ (basis.T @ found), scale * rest, atol=1e-4)


@pytest.mark.parametrize(
    ("x", "q"), [((0, 0, 0), (1, 2, 3)), ((1, 2, 3), (0, 0, 0)), ((0, 0, 0), (0, 0, 0)), ((1, 2, 2), (-2, -4, -4))]
)
def test_rotation_is_finite_where_there_is_no_angle(x, q):
    x, q = jnp.array(x, jnp.float32), jnp.array(q, jnp.float32)
    value, back = jax.vjp(lambda x: rotate(x, q), x)
    np.testing.assert_allclose(value, q, atol=1e-6)
    (grad,) = back(jnp.array([1.0, 0.0, 0.0]))
    if (x != 0).any() and (q != 0).any():  # opposite: mirrored along q, and twice as long
        np.testing.assert_allclose(grad, 2 * (np.eye(3)[0] - 2 * x * x[0] / 9), atol=1e-6)
    else:
        np.testing.assert_array_equal(grad, [1, 0, 0])


def test_the_rotation_option_changes_the_gradient_of_the_output_alone(z):
    plain, turned = make(), make(gradient="rotation")
    a, after_a = encode(plain, z, KEY, train=True)
    b, after_b = encode(turned, z, KEY, train=True)
    np.testing.assert_array_equal(a.codes, b.codes)
    np.testing.assert_allclose(a.quantized, b.quantized, rtol=1e-4, atol=1e-5)
    for x, y in zip(jax.tree.leaves(after_a), jax.tree.leaves(after_b), strict=True):
        np.testing.assert_array_equal(x, y)
    weights = jax.random.normal(jax.random.key(2), z.shape)
    found = jax.grad(lambda z: jnp.sum(weights * encode(turned, z, KEY, train=True)[0].quantized))(z)
    expected = jax.vjp(lambda z: rotate(z, b.partial[-1]), z)[1](weights)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(found - weights).max() > 0.1


def test_normalized_codes_have_length_1_and_are_the_nearest_by_angle(z):
    quantizer = make(depth=1, normalize=True)
    for step in range(3):
        found, after = encode(quantizer, z, jax.random.fold_in(KEY, step), train=True)
        embed = np.asarray(quantizer.codebooks[0].embed)
        np.testing.assert_allclose(np.linalg.norm(embed, axis=1), 1, rtol=1e-5)
        cosine = np.asarray(unit(z)) @ embed.T
        np.testing.assert_array_equal(found.codes[..., 0], cosine.argmax(-1))
        np.testing.assert_array_equal(encode(quantizer, 3 * z, KEY, train=False)[0].codes, found.codes)
        np.testing.assert_allclose(jnp.linalg.norm(found.quantized, axis=-1), 1, rtol=1e-5)
        quantizer = after
    loss = jax.grad(lambda z: encode(quantizer, z, KEY, train=True)[0].loss)(z)
    assert np.abs(loss).max() > 0
    np.testing.assert_allclose(jnp.sum(loss * z, axis=-1), 0, atol=1e-8)  # a longer vector is no better
    assert np.isfinite(jax.grad(lambda z: encode(quantizer, z, KEY, train=True)[0].loss)(0 * z)).all()
    codes, _ = quantizer.draw(z, KEY, 0.5, stochastic=False, chunk=5)
    np.testing.assert_array_equal(codes, encode(quantizer, z, KEY, train=False)[0].codes)


def clusters(key, count=24, each=20):
    """Far from 0, where N(0, 1) has no codes."""
    means = 20 + 10 * jax.random.normal(key, (count, 1, DIM))
    return (means + 0.1 * jax.random.normal(jax.random.fold_in(key, 1), (count, each, DIM))).reshape(-1, DIM)


def test_kmeans_starts_with_the_clusters_of_the_first_batch():
    x = clusters(KEY)
    settings = {"depth": 1, "restart_threshold": 0.0}
    for start, better in (("normal", False), ("kmeans", True)):
        quantizer = make(**settings, start=start)
        for step in range(3):
            found, quantizer = encode(quantizer, x, jax.random.fold_in(KEY, step), train=True)
        found, _ = encode(quantizer, x, KEY, train=False)
        assert (found.metrics["usage"][0] > 0.7) == better
        assert (found.metrics["commitment"] < 30) == better


def test_kmeans_improves_on_restarts_onto_vectors():
    """Without it, a first step restarts all codes onto vectors of the batch, some of them of the same cluster."""
    x = clusters(KEY)
    errors = {}
    for start in ("normal", "kmeans"):
        _, after = encode(make(depth=1, start=start), x, KEY, train=True)
        errors[start] = float(encode(after, x, KEY, train=False)[0].metrics["commitment"])
    assert errors["kmeans"] < 0.7 * errors["normal"]


@pytest.mark.parametrize("sizes", [(24,), (24, 16, 8)], ids=["shared", "separate"])
def test_kmeans_starts_each_book_once(sizes, z):
    quantizer = make(codebook_size=sizes, start="kmeans")
    _, begun = encode(quantizer, z, KEY, train=True)
    for before, after in zip(quantizer.codebooks, begun.codebooks, strict=True):
        assert (np.asarray(after.count) > 0).any()
        assert np.abs(after.embed - before.embed).max() > 0.1
    # from then on it learns as a quantizer that started otherwise
    books = tuple(dataclasses.replace(book, start="normal") for book in begun.codebooks)
    other = dataclasses.replace(begun, codebooks=books)
    key = jax.random.fold_in(KEY, 1)
    (a, after), (b, expected) = encode(begun, z, key, train=True), encode(other, z, key, train=True)
    np.testing.assert_array_equal(a.codes, b.codes)
    for x, y in zip(jax.tree.leaves(after), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(x, y)
    evaluated, same = encode(quantizer, z, KEY, train=False)
    np.testing.assert_array_equal(same.codebooks[0].embed, quantizer.codebooks[0].embed)
    assert np.isfinite(evaluated.loss)


def test_kmeans_of_normalized_codes_has_length_1(z):
    _, after = encode(make(depth=1, normalize=True, start="kmeans"), z, KEY, train=True)
    np.testing.assert_allclose(jnp.linalg.norm(after.codebooks[0].embed, axis=1), 1, rtol=1e-5)


def test_codes_in_training_are_drawn_by_their_distance():
    quantizer = make(dim=2, codebook_size=(5,), depth=1, temperature=2.0)
    z = jnp.broadcast_to(jnp.array([0.3, -0.2]), (4096, 2))
    found, _ = encode(quantizer, z, KEY, train=True)
    share = np.bincount(found.codes.reshape(-1), minlength=5) / 4096
    expected = quantizer.distribution(z[:1, None], 2.0)[0, 0]
    np.testing.assert_allclose(share, expected, atol=0.03)  # 4 times the deviation of a share of 4096 draws
    assert len(np.unique(encode(quantizer, z, KEY, train=False)[0].codes)) == 1


def test_depths_draw_on_their_own():
    quantizer = make(temperature=1.0)
    books = (dataclasses.replace(quantizer.codebooks[0], embed=jnp.zeros((24, DIM)), restart_threshold=0.0),)
    quantizer = dataclasses.replace(quantizer, codebooks=books, update_once_per_step=True)
    codes = np.asarray(encode(quantizer, jnp.zeros((500, DIM)), KEY, train=True)[0].codes)
    assert (codes[:, 0] == codes[:, 1]).mean() < 0.15
    assert (codes[:, 1] == codes[:, 2]).mean() < 0.15


def test_dropout_shortens_some_rows_and_changes_nothing_else():
    z = jax.random.normal(jax.random.key(1), (2000, 2, DIM))
    plain, dropping = make(depth=4), make(depth=4, dropout=0.3, dropout_from=2)
    (a, after_a), (b, after_b) = encode(plain, z, KEY, train=True), encode(dropping, z, KEY, train=True)
    np.testing.assert_array_equal(a.codes, b.codes)
    np.testing.assert_allclose(a.partial, b.partial, rtol=0, atol=rounding(4, float(jnp.abs(a.partial).max())))
    learned = (jax.tree.leaves(found) for found in ((a.loss, after_a), (b.loss, after_b)))
    for x, y in zip(*learned, strict=True):  # of two programs: sums over at most the vectors, and over depths
        np.testing.assert_allclose(x, y, rtol=0, atol=rounding(4000 + 4, float(jnp.abs(x).max())))
    distance = jnp.abs(b.quantized - b.partial).max(axis=-1)  # [depth row 2]
    depth = np.asarray(jnp.argmin(distance, axis=0)) + 1
    np.testing.assert_array_equal(depth[:, 0], depth[:, 1])  # a row as a whole
    share = np.bincount(depth[:, 0], minlength=5) / 2000
    np.testing.assert_allclose(share, [0, 0, 0.1, 0.1, 0.8], atol=0.04)
    evaluated, _ = encode(dropping, z, KEY, train=False)
    expected = encode(plain, z, KEY, train=False)[0].quantized
    np.testing.assert_allclose(evaluated.quantized, expected, rtol=0, atol=rounding(4, float(jnp.abs(expected).max())))


def test_fsq_and_simvq_take_dropout_too(z):
    fsq = QuantizerConfig(kind="fsq", levels=(5,) * DIM, depth=3, dropout=1.0)
    simvq = QuantizerConfig(kind="simvq", codebook_size=(24,), depth=3, dropout=1.0)
    for config in (fsq, simvq):
        config.check(DIM)
        quantizer = config.init(KEY, DIM)
        found, _ = encode(quantizer, z, KEY, train=True)
        depth = np.asarray(jnp.argmin(jnp.abs(found.quantized - found.partial).max(axis=(-1, -2)), axis=0))
        assert set(depth) == {0, 1, 2}
