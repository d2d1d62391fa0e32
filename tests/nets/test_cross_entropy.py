import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.nets import cross_entropy
from tests.conftest import rounding

VOCAB, DIM = 11, 5


def inputs():
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel = jax.random.normal(keys[0], (2, 7, DIM)), jax.random.normal(keys[1], (DIM, VOCAB))
    return x, kernel, jax.random.randint(keys[2], (2, 7), 0, VOCAB)


def loss(kernel, x, codes, chunk):
    def score(x, codes):
        return cross_entropy.hard(x @ kernel, codes)

    return jnp.mean(cross_entropy.by_chunks(score, chunk, x, codes) * jnp.arange(1, 8))


@pytest.mark.parametrize("chunk", [1, 3, 6, 7, 100])
def test_chunks_change_neither_losses_nor_gradients(chunk):
    x, kernel, codes = inputs()
    logits = np.asarray(x @ kernel, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.mean(np.take_along_axis(log_p, np.asarray(codes)[..., None], -1)[..., 0] * np.arange(1, 8))
    value, gradient = jax.value_and_grad(loss)(kernel, x, codes, chunk)
    np.testing.assert_allclose(value, expected, rtol=rounding(100))
    p = np.exp(log_p) - np.eye(VOCAB)[np.asarray(codes)]
    by_hand = np.einsum("bni,bno,n->io", np.asarray(x, np.float64), p, np.arange(1, 8)) / 14
    np.testing.assert_allclose(gradient, by_hand, atol=rounding(100, np.abs(by_hand).max()))


@pytest.mark.parametrize(("chunk", "times"), [(7, 1), (4, 2)])
def test_a_single_chunk_is_computed_once(chunk, times):
    """In both passes together the product with the kernel is there once, or twice where it is done again."""
    x, kernel, codes = inputs()
    text = str(jax.make_jaxpr(jax.grad(loss), static_argnums=3)(kernel, x, codes, chunk))
    assert text.count(f",{chunk},{VOCAB}] = dot_general") == times
