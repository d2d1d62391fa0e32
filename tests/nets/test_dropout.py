import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rqjax.mesh import make_mesh
from rqjax.nets.dropout import dropout, hashed

SHAPE = (64, 32, 128)
COUNT = 64 * 32 * 128
ERROR = 5 * COUNT**-0.5
"""Five standard deviations of a mean of so many independent numbers of variance 1."""


def kept(key: int, rate: float = 0.5) -> np.ndarray:
    return np.asarray(dropout(jax.random.key(key), jnp.ones(SHAPE), rate) != 0)


def test_dropout_keeps_the_mean_and_needs_a_key():
    ones = jnp.ones(SHAPE)
    for rate in (0.1, 0.3, 0.9):
        dropped = dropout(jax.random.key(0), ones, rate)
        assert float((dropped == 0).mean()) == pytest.approx(rate, abs=ERROR * (rate * (1 - rate)) ** 0.5)
        np.testing.assert_allclose(dropped[dropped != 0], 1 / (1 - rate), rtol=1e-6)
    assert dropout(None, ones, 0.3) is ones
    assert dropout(jax.random.key(0), ones, 0.0) is ones


def test_neighbours_in_every_direction_are_independent():
    signs = 2.0 * kept(3) - 1
    for axis in range(3):
        for step in (1, 2, 7):
            assert abs(np.mean(signs * np.roll(signs, step, axis))) < ERROR, (axis, step)


def test_masks_of_two_keys_are_independent_at_any_places():
    """Of keys that follow one another, as those of layers do; compared at the same places and at those of any xor."""
    first, second = (2.0 * kept(key).reshape(-1) - 1 for key in (8, 9))
    places = np.arange(COUNT)
    for other in (0, 1, 2, 255, 4096, COUNT - 1):
        assert abs(np.mean(first * second[places ^ other])) < ERROR, other


def test_every_bit_is_set_in_half_of_the_numbers():
    numbers = np.asarray(hashed(jax.random.key(1), SHAPE))
    for bit in range(32):
        assert abs(np.mean(numbers >> bit & 1) - 0.5) < ERROR / 2, bit


def test_hashed_places_collide_as_random_numbers_do():
    """A permutation of the places, begun by two halves of a key: no number comes twice."""
    assert len(np.unique(hashed(jax.random.key(2), SHAPE))) == COUNT


@pytest.mark.parametrize("spec", [P("data"), P(None, "data"), P("data", None, "model")])
def test_a_mesh_changes_nothing(spec):
    mesh = make_mesh("4x2")
    x = jnp.ones(SHAPE)
    whole = dropout(jax.random.key(5), x, 0.4)
    split = jax.jit(lambda key, x: dropout(key, x, 0.4), out_shardings=NamedSharding(mesh, spec))
    np.testing.assert_array_equal(split(jax.random.key(5), jax.device_put(x, NamedSharding(mesh, spec))), whole)


def test_gradients_pass_where_elements_stay():
    x, key = jnp.linspace(-1, 1, 1000), jax.random.key(6)
    gradient = jax.grad(lambda x: jnp.sum(dropout(key, x, 0.25)))(x)
    np.testing.assert_allclose(
        gradient, np.where(np.asarray(dropout(key, jnp.ones(1000), 0.25)) != 0, 1 / 0.75, 0), rtol=1e-6
    )
