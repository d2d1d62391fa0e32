import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.nets.filters import filter_logits
from rqjax.nets.sampling import draw, sample

MANY = 20000


def drawn(logits, temperature=1.0, top_k=1000, top_p=1.0, rows=MANY):
    keys = jax.random.split(jax.random.key(0), rows)
    return np.asarray(jax.jit(sample)(keys, jnp.broadcast_to(logits, (rows, len(logits))), temperature, top_k, top_p))


def test_nan_is_never_drawn():
    logits = jnp.array([jnp.nan, 0.0, 1.0])
    assert set(drawn(logits, rows=200)) == {1, 2}
    assert set(drawn(logits, 0.0, rows=2)) == {2}


def test_draws_follow_the_filtered_probabilities():
    logits = jnp.array([2.0, 0.0, 1.0, -1.0, 1.5])
    expected = jax.nn.softmax(filter_logits(logits, 0.8, 4, 0.9))
    assert np.sum(np.asarray(expected) > 0) == 3
    np.testing.assert_allclose(np.bincount(drawn(logits, 0.8, 4, 0.9), minlength=5) / MANY, expected, atol=0.015)


@pytest.mark.parametrize("vocab", [128, 300])
def test_draws_of_several_blocks_follow_the_probabilities(vocab):
    """Each count is a binomial one: none of so few lies six standard deviations off. Of -inf there is none."""
    logits = 2 * jax.random.normal(jax.random.key(1), (vocab,))
    logits = logits.at[::3].set(-jnp.inf)
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    counts = np.bincount(drawn(logits), minlength=vocab)
    assert np.all(counts[::3] == 0)
    assert np.all(np.abs(counts - MANY * p) <= 6 * np.sqrt(MANY * p * (1 - p)) + 1e-9)


def test_a_token_of_no_probability_is_not_drawn_at_the_ends_of_a_block():
    """Only these have a weight, the first so small that it is lost in the sum."""
    logits = jnp.full(400, -jnp.inf).at[jnp.array([5, 127, 128, 399])].set(jnp.array([-40.0, 0.0, 1.0, 0.5]))
    assert set(drawn(logits)) <= {5, 127, 128, 399}


def test_a_row_without_any_token_gives_the_first():
    assert draw(jax.random.split(jax.random.key(0), 1), jnp.full((1, 200), -jnp.inf)) == 0


def test_a_row_draws_with_its_own_key_alone():
    logits = 3 * jax.random.normal(jax.random.key(1), (6, 50))
    keys = jax.random.split(jax.random.key(2), 6)
    together = sample(keys, logits, 1.0, 20, 0.9)
    alone = [sample(keys[i : i + 1], logits[i : i + 1], 1.0, 20, 0.9)[0] for i in range(6)]
    np.testing.assert_array_equal(together, alone)


def test_temperature_zero_is_greedy():
    logits = 3 * jax.random.normal(jax.random.key(0), (4, 50))
    keys = jax.random.split(jax.random.key(0), 4)
    np.testing.assert_array_equal(sample(keys, logits, 0.0, 50, 1.0), jnp.argmax(logits, -1))
    assert sample(keys[:1], jnp.array([[0.0, 5.0, 5.0]]), 0.0, 3, 1.0)[0] == 1


def test_a_change_of_settings_compiles_nothing():
    traces, logits = [], jnp.zeros((1, 50))

    @jax.jit
    def one(temperature, top_k, top_p):
        traces.append(1)
        return sample(jax.random.split(jax.random.key(0), 1), logits, temperature, top_k, top_p)

    for t, k, p in [(1.0, 5, 0.9), (0.0, 50, 1.0), (2.0, 1, 0.1)]:
        one(jnp.float32(t), jnp.int32(k), jnp.float32(p))
    assert len(traces) == 1
