"""Guidance in numbers; in both samplers greedy codes are the argmax of logits that two plain forwards give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.dq import positions
from rqjax.errors import InputError
from rqjax.mesh import make_mesh
from rqjax.nets.condition import ClassCondition, TextCondition
from rqjax.nets.guidance import Guidance, left_out
from rqjax.nets.sampling import Draw
from rqjax.rq import sample
from tests import small_dq, small_rq

GREEDY, KEY = Draw(temperature=0.0), jax.random.key(0)


@pytest.fixture(scope="module")
def residual():
    config = small_rq.small_config(condition_dropout=0.1)
    tokenizer = small_rq.tokenizer_with(small_rq.make_quantizer((16,), 8))
    return small_rq.strong(config.init(jax.random.key(0)), 10.0), tokenizer


@pytest.fixture(scope="module")
def dynamic():
    return small_dq.strong(small_dq.small_config(condition_dropout=0.1).init(jax.random.key(0)))


def test_scales_are_those_of_the_published_formulas():
    flat = Guidance(scale=3.0, decay=0.5).scales(2, 3)
    np.testing.assert_allclose(flat, [[3, 2, 1.5]] * 2)
    np.testing.assert_allclose(Guidance(scale=3.0, schedule="linear").scales(5, 1)[:, 0], [1, 1.5, 2, 2.5, 3])
    cosine = Guidance(scale=16.0, schedule="power-cosine", power=2.75).scales(256, 1)[:, 0]
    i = np.arange(256)
    np.testing.assert_allclose(cosine, 1 + 15 * (1 - np.cos(np.pi * (i / 256) ** 2.75)) / 2, rtol=1e-6)
    np.testing.assert_array_equal(Guidance().scales(3, 2), np.ones((3, 2)))


def test_greedy_residual_codes_are_the_argmax_of_the_mixed_logits(residual):
    model, tokenizer = residual
    labels, guidance = jnp.array([1, 4, 0]), Guidance(scale=2.5, schedule="linear", decay=0.5)
    codes = model.generate(tokenizer, labels, KEY, GREEDY, guidance=guidance)
    with_it, without = (
        np.asarray(jax.jit(small_rq.logits_of)(model, tokenizer.quantizer, codes, ids)[0], np.float64)
        for ids in (labels, jnp.full(3, 5))
    )
    scales = guidance.scales(6, 3).reshape(2, 3, 3, 1)
    np.testing.assert_array_equal(codes, np.argmax(without + scales * (with_it - without), -1))
    plain = model.generate(tokenizer, labels, KEY, GREEDY)
    assert not np.array_equal(codes, plain)
    for off in (Guidance(), Guidance(scale=1.0, schedule="linear")):
        np.testing.assert_array_equal(model.generate(tokenizer, labels, KEY, GREEDY, guidance=off), plain)


def led_by(layout, tokens, ids):
    return jax.vmap(lambda token: positions.led_by(layout, token, ids), in_axes=1, out_axes=1)(tokens)


def test_tokens_led_by_no_class_are_those_of_its_sequence(dynamic):
    codes = small_dq.random_codes(dynamic.config.layout, [(0.5, 0.5)] * 3)
    ids, none = jnp.array([0, 2, 1]), jnp.full(3, 3)
    found = led_by(dynamic.config.layout, dynamic.rows(codes, ids).tokens, none)
    expected = dynamic.rows(codes, none).tokens
    assert all(map(np.array_equal, jax.tree.leaves(found), jax.tree.leaves(expected)))


def test_greedy_dynamic_contents_are_the_argmax_of_the_mixed_logits(dynamic):
    layout, ids = dynamic.config.layout, jnp.array([0, 2])
    guidance = Guidance(scale=3.0, decay=0.0)  # positions are not guided
    rows, codes = dynamic.generate_rows(ids, KEY, GREEDY, guidance=guidance)
    with_it, without = (
        np.asarray(dynamic.network.content_head(dynamic.network(tokens, rows.image)[1]), np.float64)
        for tokens in (rows.tokens, led_by(layout, rows.tokens, jnp.full(2, 3)))
    )
    best = np.argmax((without + 3 * (with_it - without))[..., : layout.codebook_size], -1)
    drawn = np.asarray(rows.tokens.content)[:, 1:]
    checked = (drawn < layout.codebook_size) & np.asarray(rows.image >= 0)[:, 1:]
    assert checked.sum() > 4
    np.testing.assert_array_equal(drawn[checked], best[checked])
    assert not np.array_equal(codes.codes, dynamic.generate(None, ids, KEY, GREEDY).codes)


def test_other_values_compile_nothing(residual):
    model, tokenizer = residual

    def draw(**settings):
        return model.generate(tokenizer, jnp.array([1, 2]), KEY, GREEDY, guidance=Guidance(**settings))

    draw(scale=2.0)
    before = sample.generate._cache_size()
    for settings in ({"scale": 3.0}, {"scale": 0.5}, {"scale": 4.0, "schedule": "power-cosine", "power": 2.0}):
        draw(**settings)
    assert sample.generate._cache_size() == before


@pytest.mark.parametrize("family", ["residual", "dynamic"])
def test_eight_devices_draw_what_one_does(family, request):
    made = request.getfixturevalue(family)
    model, tokenizer = made if family == "residual" else (made, None)
    labels, guidance, draw = jnp.arange(8) % 3, Guidance(scale=2.0), Draw(top_p=0.9)
    expected = model.generate(tokenizer, labels, KEY, draw, guidance=guidance)
    mesh = make_mesh("4x2")
    with jax.set_mesh(mesh):
        split = jax.device_put(labels, jax.NamedSharding(mesh, jax.P("data")))
        quantizer = tokenizer and tokenizer.quantizer
        whole = jax.device_put((model, quantizer, KEY), jax.NamedSharding(mesh, jax.P()))
        books = tokenizer and small_rq.tokenizer_with(whole[1])
        found = whole[0].generate(books, split, whole[2], draw, guidance=guidance)
    assert all(map(np.array_equal, jax.tree.leaves(found), jax.tree.leaves(expected)))


@pytest.mark.parametrize(
    ("condition", "null"), [(ClassCondition(3, droppable=True), [3]), (TextCondition(9, 2), [0, 0])]
)
def test_training_leaves_out_that_share_of_the_conditions(condition, null):
    ids = jnp.ones((4000, condition.length), jnp.int32)
    found = np.asarray(left_out(condition, ids, KEY, 0.25))
    dropped = (found == null).all(1)
    assert abs(dropped.mean() - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5
    assert (found[~dropped] == 1).all()


@pytest.mark.parametrize("family", ["residual", "dynamic"])
def test_training_sees_an_image_with_its_condition_or_without(family, request):
    """The condition's dropout is all that a key draws in these models: there are two losses of one image."""
    made = request.getfixturevalue(family)
    model, first = (made[0], (made[1].quantizer,)) if family == "residual" else (made, ())
    if family == "residual":
        codes = small_rq.random_codes((16,) * 3, (1, 2, 3))
    else:
        codes = small_dq.random_codes(model.config.layout, [(0.5, 0.5)])

    @jax.jit
    def loss(label, key):
        return model.loss_from_codes(*first, codes, label[None], key=key)[0]

    with_it, without = (float(loss(jnp.int32(label), None)) for label in (1, model.config.classes))
    found = [float(loss(jnp.int32(1), jax.random.key(seed))) for seed in range(100)]
    near = np.abs(np.array(found)[:, None] - [with_it, without]) < 1e-4 * abs(with_it - without)
    assert (near.sum(1) == 1).all()
    assert 0 < near[:, 1].sum() < 30  # a tenth of a hundred


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": -1.0}, "guidance is -1.0: expected a number of at least 0"),
        ({"scale": float("nan")}, "guidance is nan"),
        ({"schedule": "cosine"}, "guidance_schedule is 'cosine': expected one of constant, linear, power-cosine"),
        ({"power": float("inf")}, "guidance_power is inf"),
        ({"decay": -0.5}, "guidance_decay is -0.5"),
    ],
)
def test_values_that_cannot_be_used_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Guidance(**settings).check("label", 0.1)


def test_models_trained_without_are_refused():
    with pytest.raises(InputError, match="trained with its label at all times: leave it out, or train one with"):
        Guidance(scale=2.0).check("label", 0.0)
    with pytest.raises(InputError, match="knows no classes"):
        Guidance(scale=2.0).check(None, 0.0)
    Guidance().check(None, 0.0)
    for config in (small_rq.small_config(classes=0), small_dq.small_config(classes=0)):
        config.condition_dropout = 0.1
        with pytest.raises(InputError, match=r"condition_dropout is 0\.1 for a prior without classes"):
            config.check()
