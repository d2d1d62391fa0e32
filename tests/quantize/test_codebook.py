import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.quantize import codebook as cb
from rqjax.quantize.distance import distances, nearest
from rqjax.quantize.histogram import perplexity, usage

KEY = jax.random.key(0)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture
def book():
    fresh = cb.init_codebook(KEY, 24, 8, decay=0.8)
    return fresh.with_averages(fresh.count + jnp.linspace(0.2, 3, 24), fresh.total)


def test_distances_are_those_of_the_definition():
    embed, x = normal(1, 24, 8), normal(2, 50, 8)
    expected = ((np.asarray(x, np.float64)[:, None] - np.asarray(embed, np.float64)) ** 2).sum(-1)
    np.testing.assert_allclose(distances(embed, x), expected, rtol=1e-5, atol=1e-5)


def test_distances_are_float32_whatever_comes_in():
    embed, x = normal(1, 24, 8), normal(2, 50, 8).astype(jnp.bfloat16)
    with jax.default_matmul_precision("bfloat16"):
        ours = jax.jit(distances)(embed, x)
    np.testing.assert_allclose(ours, distances(embed, x.astype(jnp.float32)), rtol=1e-6, atol=1e-6)
    assert ours.dtype == jnp.float32
    assert "HIGHEST" in str(jax.make_jaxpr(distances)(embed, x))


def test_the_lowest_of_equally_near_codes_is_taken():
    embed = jnp.stack([jnp.ones(4), -jnp.ones(4), jnp.ones(4)])
    np.testing.assert_array_equal(nearest(embed, jnp.array([[1.0] * 4, [-1.0] * 4, [0.0] * 4])), [0, 1, 0])


def test_averages_are_those_of_one_hot_sums(book):
    x = normal(3, 100, 8)
    codes = nearest(book.embed, x)
    ours, _ = dataclasses.replace(book, decay=0.9, restart_threshold=0.0).learn(x, codes, KEY)
    onehot = np.eye(24)[np.asarray(codes)]
    np.testing.assert_allclose(ours.count, 0.9 * book.count + 0.1 * onehot.sum(0), rtol=1e-5)
    np.testing.assert_allclose(ours.total, 0.9 * book.total + 0.1 * onehot.T @ np.asarray(x), rtol=1e-4, atol=1e-5)


def test_candidates_of_a_large_batch_are_different_rows_of_it():
    x = normal(4, 40, 8)
    drawn = np.asarray(cb.candidates(KEY, x, 24))
    rows = [int(np.flatnonzero((np.asarray(x) == row).all(1))[0]) for row in drawn]
    assert len(set(rows)) == 24


def test_candidates_of_a_small_batch_repeat_it_evenly_with_noise_above():
    x = normal(4, 7, 16)
    drawn = np.asarray(cb.candidates(KEY, x, 21))
    rows = ((drawn[:, None] - np.asarray(x)) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(np.bincount(rows, minlength=7), [3] * 7)
    noise = drawn - np.asarray(x)[rows]
    assert noise.min() > -1e-6
    assert 0.8 * 0.01 / 4 < noise.max() < 0.01 / 4 + 1e-6
    assert abs(noise.mean() - 0.005 / 4) < 2e-4
    assert len(np.unique(drawn, axis=0)) == 21


@pytest.mark.parametrize("n", [10, 24, 90])
def test_update_follows_the_rule_written_in_numpy(book, n):
    x, key, decay = normal(5, n, 8), jax.random.key(9), 0.8
    codes = nearest(book.embed, x)
    ours, restarted = jax.jit(cb.Codebook.learn)(book, x, codes, key)

    offered = np.asarray(cb.candidates(key, x, 24), np.float64)
    count, total = np.asarray(book.count, np.float64) * decay, np.asarray(book.total, np.float64) * decay
    for code, row in zip(np.asarray(codes), np.asarray(x, np.float64), strict=True):
        count[code] += 1 - decay
        total[code] += (1 - decay) * row
    moved = 0
    for code in range(24):
        if count[code] < 1:
            count[code], total[code], moved = 1, offered[code], moved + 1
    weight = total / (count.sum() * (count + 1e-5) / (count.sum() + 24e-5))[:, None]
    assert 0 < moved < 24
    np.testing.assert_allclose(restarted, moved / 24, rtol=1e-6)
    np.testing.assert_allclose(ours.count, count, rtol=1e-5)
    np.testing.assert_allclose(ours.total, total, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.embed, weight, rtol=1e-4, atol=1e-5)


def test_no_threshold_restarts_nothing(book):
    x = normal(5, 10, 8)
    ours, restarted = dataclasses.replace(book, restart_threshold=0.0).learn(x, nearest(book.embed, x), KEY)
    assert restarted == 0
    assert ours.count.min() < 1


def test_a_restarted_code_sits_on_its_candidate():
    """The first step ever: no code has any hits yet, so all of them move onto the data."""
    book, x = cb.init_codebook(KEY, 16, 8), 5 + normal(6, 64, 8)
    ours, restarted = book.learn(x, nearest(book.embed, x), KEY)
    assert restarted == 1
    np.testing.assert_allclose(ours.embed, cb.candidates(KEY, x, 16), rtol=1e-4)


def test_a_new_codebook_shares_no_buffer():
    book = jax.jit(cb.init_codebook, static_argnums=(1, 2))(KEY, 16, 8)
    np.testing.assert_array_equal(book.embed, book.total)
    donated = jax.jit(lambda book: jax.tree.map(lambda x: x + 1, book), donate_argnums=0)(book)
    np.testing.assert_array_equal(donated.embed, donated.total)


def test_encode_finds_codes_in_the_book_from_before_and_learns_with_the_key_itself(book):
    z = normal(7, 5, 4, 8)
    book = cb.Codebook(book.embed, book.count, book.total, decay=0.8, commitment_weight=0.5)
    found, after = jax.jit(cb.Codebook.encode, static_argnames="train")(book, z, KEY, train=True)
    flat = z.reshape(-1, 8)
    codes = nearest(book.embed, flat)
    expected, share = book.learn(flat, codes, KEY)
    np.testing.assert_array_equal(found.codes, codes.reshape(5, 4, 1))
    np.testing.assert_allclose(found.quantized, book.vectors(found.codes[..., 0]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.loss, 0.5 * jnp.mean((z - book.embed[found.codes[..., 0]]) ** 2), rtol=1e-5)
    np.testing.assert_allclose(found.metrics["restarted"], [share], rtol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(after), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert after.decay == 0.8
    kept, same = book.encode(z, KEY, train=False)
    np.testing.assert_array_equal(kept.codes, found.codes)
    assert same.embed is book.embed


def test_the_row_behind_the_last_code_is_part_of_every_book_and_no_step_changes_it():
    book = cb.Codebook(embed=jnp.ones((3, 2)), count=jnp.ones(3), total=jnp.ones((3, 2)))
    np.testing.assert_array_equal(book.padding, jnp.zeros(2))
    assert jax.tree.structure(jax.eval_shape(lambda: book)) == jax.tree.structure(book)
    official = cb.Codebook(
        embed=normal(1, 3, 2), count=jnp.ones(3), total=jnp.ones((3, 2)), padding=jnp.array([5.0, 6.0])
    )
    _, after = official.encode(normal(2, 9, 2), KEY, train=True)
    np.testing.assert_array_equal(after.padding, [5, 6])


def test_usage_and_perplexity():
    codes = jnp.array([[0, 1], [2, 3], [0, 1], [2, 3]])
    np.testing.assert_allclose(usage(codes, 16), 4 / 16)
    np.testing.assert_allclose(perplexity(codes, 16), 4, rtol=1e-5)
    np.testing.assert_allclose(perplexity(jnp.zeros((5,), jnp.int32), 16), 1, rtol=1e-5)
