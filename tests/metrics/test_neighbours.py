import jax
import jax.numpy as jnp
import numpy as np

from rqjax.metrics import nearest_class


def test_classes_are_those_of_a_plain_loop_over_all_distances():
    rng = np.random.default_rng(0)
    known, label = rng.integers(0, 256, (300, 5, 4, 3), np.uint8), rng.integers(0, 4, 300)
    images = rng.integers(0, 256, (260, 5, 4, 3), np.uint8)  # more than are compared at once
    expected = []
    for image in images:
        distance = np.sum((known.astype(np.int64) - image) ** 2, axis=(1, 2, 3))
        votes = np.bincount(label[np.argsort(distance, kind="stable")[:7]], minlength=4)
        expected.append(votes.argmax())
    found = jax.jit(nearest_class, static_argnames="classes")(images, known, label, classes=4)
    assert np.array_equal(found, expected)


def test_an_image_among_the_known_has_its_own_class_by_one_vote():
    known = jnp.asarray(np.random.default_rng(1).integers(0, 256, (20, 3, 3, 1), np.uint8))
    label = jnp.arange(20) % 3
    assert np.array_equal(nearest_class(known, known, label, 3, votes=1), label)


def test_the_lowest_of_equal_votes_wins():
    known = jnp.array([0, 1, 200, 201], jnp.uint8).reshape(4, 1, 1, 1)
    found = nearest_class(known[:1], known, jnp.array([2, 1, 2, 1]), 3, votes=4)
    assert found.tolist() == [1]
