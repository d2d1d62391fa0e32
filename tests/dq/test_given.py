"""Codes that are given stay, what is drawn follows them, and codes that are no prefix are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.dq.given import check_prefix
from rqjax.dq.given import keep_first as keep
from rqjax.errors import InputError
from rqjax.nets.sampling import Draw
from rqjax.quantize.dynamic import Codes
from tests.dq.test_dqsampler import GREEDY, GRIDS, KEY, each, make, walk
from tests.small_dq import random_codes

LABELS = jnp.array([1, 2, 0])


@pytest.fixture(scope="module", params=GRIDS, ids=["dual", "triple"])
def model(request):
    return make(request.param)


def images(layout, count=3):
    return random_codes(layout, [np.full(layout.grains, 1 / layout.grains)] * count)


@pytest.mark.parametrize("fixed", [True, False])
def test_given_codes_stay_and_every_cell_is_covered_once(model, fixed):
    """The top rows of regions, and the coarse codes of all or of some of them."""
    layout = model.config.layout
    codes = images(layout)
    rows, grains = layout.grids[0], layout.grains
    for kept in (keep(codes, 1, grains), keep(codes, rows, 1), keep(codes, 1, 1), keep(codes, rows, grains)):
        tokens, drawn = model.generate_rows(LABELS, KEY, Draw(), fixed, given=kept)
        for name in ("codes", "grain"):
            known = np.asarray(getattr(kept, name))
            np.testing.assert_array_equal(np.asarray(getattr(drawn, name))[known >= 0], known[known >= 0])
        for i in range(3):
            taken = each(tokens, i)
            described(layout, taken, each(drawn, i))
    np.testing.assert_array_equal(drawn.codes, codes.codes)


def described(layout, rows, codes):
    """Asserts that a sequence says those codes, a cell once."""
    fine, filled = layout.grids[-1], rows.image >= 0
    drawn, times = np.zeros((fine, fine), int), np.zeros((fine, fine), int)
    for content, position, grain in zip(
        rows.tokens.content[filled], rows.tokens.position[filled], rows.tokens.grain[filled], strict=True
    ):
        if position < layout.cells[grain]:
            block = fine // layout.grids[grain]
            row, column = (block * x for x in divmod(int(position), layout.grids[grain]))
            drawn[row : row + block, column : column + block] = content
            times[row : row + block, column : column + block] += 1
    np.testing.assert_array_equal(times, 1)
    np.testing.assert_array_equal(drawn, codes.codes)


def test_what_an_image_was_drawn_with_draws_it_again(model):
    """Greedily, with its first rows given: what follows depends on what came before alone."""
    layout = model.config.layout
    rows, codes = model.generate_rows(LABELS, KEY, GREEDY)
    for i in range(3):
        walk(layout, each(rows, i), each(codes, i), int(LABELS[i]), True)
    whole = model.generate(None, LABELS, KEY, GREEDY, given=keep(codes, layout.grids[0], layout.grains))
    nothing = model.generate(None, LABELS, KEY, GREEDY, given=keep(codes, 0, 0))
    for again in (whole, nothing):
        np.testing.assert_array_equal(again.codes, codes.codes)
        np.testing.assert_array_equal(again.grain, codes.grain)


def changed(codes, name, place, value):
    arrays = {"codes": np.array(codes.codes), "grain": np.array(codes.grain)}
    arrays[name][place] = value
    return Codes(**{name: jnp.asarray(x) for name, x in arrays.items()})


def test_codes_that_are_no_prefix_are_refused(model):
    layout = model.config.layout
    codes = images(layout)
    check_prefix(keep(codes, 1, 1), 3, layout)
    for wrong, message in (
        (changed(codes, "grain", np.s_[0, 0, 0], -1), "given codes are no prefix: expected those of the first regions"),
        (changed(keep(codes, 1, layout.grains), "codes", np.s_[0, -1, -1], 3), "no prefix"),
        (changed(codes, "codes", np.s_[1, 0, 0], -1), "no prefix"),
        (changed(codes, "codes", np.s_[1, 0, 0], 8), "given code 8 is out of range: this model has 8, from 0 to 7"),
        (changed(codes, "codes", np.s_[1, 0, 0], -2), "given code -2 is out of range"),
        (changed(codes, "grain", np.s_[1, 0, 0], 3), "given grain 3 is out of range"),
        (jax.tree.map(lambda x: x[:2], codes), "have shapes"),
    ):
        with pytest.raises(InputError, match=message):
            check_prefix(wrong, 3, layout)
