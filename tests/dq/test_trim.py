"""Rows cut to a batch's longest image give the losses and the gradients of whole rows, at every length."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.errors import InputError
from tests.conftest import assert_same_gradients, rounding, transformer_terms
from tests.small_dq import random_codes, small_config, strong

LABELS = jnp.array([1, 2])
LENGTHS = (9, 14)
"""Of the 20 tokens that a row has: an image with k of 4 regions fine has 8 + 3 k."""
TERMS = transformer_terms(layers=2, dim=16, tokens=2 * 20)


def make(**changes):
    return strong(small_config(**changes).init(jax.random.key(0)), 2.0)


def codes_with(fine):
    """Codes of two images, of which as many regions are fine as said."""
    found = random_codes(small_config().layout, [(0.5, 0.5)] * 2)
    grain = np.zeros((2, 4), np.int32)
    for i, count in enumerate(fine):
        grain[i, :count] = 1
    grain = grain.reshape(2, 2, 2)
    whole, codes = grain.repeat(2, 1).repeat(2, 2), np.asarray(found.codes)
    same = codes[:, ::2, ::2].repeat(2, 1).repeat(2, 2)
    return dataclasses.replace(found, codes=jnp.asarray(np.where(whole, codes, same)), grain=jnp.asarray(grain))


@jax.jit
def scored(model, codes, key=None):
    def loss(network):
        return model.with_trained(network).loss_from_codes(codes, LABELS, key)

    return jax.value_and_grad(loss, has_aux=True)(model.trained)


@pytest.mark.parametrize(("fine", "length"), [((0, 0), 9), ((0, 1), 14), ((2, 1), 14), ((3, 0), 20), ((4, 4), 20)])
def test_cut_rows_give_the_losses_and_gradients_of_whole_ones(fine, length):
    whole, cut, codes = make(), make(row_lengths=LENGTHS), codes_with(fine)
    assert int(cut.rows(codes, LABELS).filled.sum(1).max()) == 8 + 3 * max(fine)
    (expected, metrics), gradient = scored(whole, codes)
    (found, others), ours = scored(cut, codes)
    np.testing.assert_allclose(found, expected, rtol=rounding(TERMS))
    assert_same_gradients(ours, gradient, TERMS)
    for name in ("content_loss", "coarse_position_loss", "fine_position_loss"):
        np.testing.assert_allclose(others[name], metrics[name], rtol=rounding(TERMS))
    tokens = sum(8 + 3 * count for count in fine)
    np.testing.assert_allclose(others["padding"], 1 - tokens / (2 * length), rtol=1e-6)


def test_the_gradient_is_that_of_what_is_done_with_the_loss():
    model, codes = make(row_lengths=LENGTHS), codes_with((1, 0))
    scale = jax.jit(jax.grad(lambda network: 3 * model.with_trained(network).loss_from_codes(codes, LABELS)[0]))
    _, gradient = scored(model, codes)
    assert_same_gradients(scale(model.trained), jax.tree.map(lambda x: 3 * x, gradient), TERMS)


def test_dropout_acts_on_cut_rows():
    model, codes = make(row_lengths=LENGTHS, dropout=0.3), codes_with((1, 0))
    losses = [float(scored(model, codes, key)[0][0]) for key in (None, jax.random.key(1), jax.random.key(2))]
    assert len(set(losses)) == 3


def test_lengths_that_cannot_be_used_are_refused():
    with pytest.raises(InputError, match="row_lengths"):
        small_config(row_lengths=(1,)).check()
    with pytest.raises(InputError, match=r"row_lengths are \(9,\) of packed rows, which have one length"):
        small_config(row_lengths=(9,), pack=True).check()
