"""Options of a prior that the official code does not have."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.errors import InputError
from rqjax.nets.rope import rope_angles, rotate
from rqjax.nets.sampling import Draw
from rqjax.official import to_torch
from rqjax.store.arrays import to_arrays
from tests.small_rq import logits_of, make_quantizer, random_codes, small_config, strong, tokenizer_with

OPTIONS = {"qk_norm": {"qk_norm": True}, "rope": {"rope": True}, "both": {"qk_norm": True, "rope": True}}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_cached_greedy_codes_are_the_argmax_of_the_uncached_forward(options):
    model = strong(small_config(**options).init(jax.random.key(0)), 10.0)
    quantizer, labels = make_quantizer((16,), 8), jnp.array([1, 4])
    codes = model.generate(tokenizer_with(quantizer), labels, jax.random.key(0), Draw(temperature=0.0))
    logits, _ = jax.jit(logits_of)(model, quantizer, codes, labels)
    np.testing.assert_array_equal(codes, jnp.argmax(logits, -1))
    assert len(np.unique(codes)) > 3


def test_options_change_the_logits_and_add_only_the_norms():
    plain = small_config()
    quantizer, codes, labels = make_quantizer((16,), 8), random_codes((16,) * 3), jnp.array([1, 4])
    expected = logits_of(strong(plain.init(jax.random.key(0))), quantizer, codes, labels)[0]
    names = set(to_arrays(jax.eval_shape(plain.init, jax.random.key(0))))
    for name, options in OPTIONS.items():
        config = dataclasses.replace(plain, **options)
        model = strong(config.init(jax.random.key(0)))
        assert not np.allclose(logits_of(model, quantizer, codes, labels)[0], expected, atol=1e-3), name
        added = set(to_arrays(model)) - names
        assert {path.split("/")[-2] for path in added} == (
            {"query_norm", "key_norm"} if "qk_norm" in options else set()
        )


def test_normalised_queries_and_keys_do_not_feel_the_scale_of_their_kernels():
    model = strong(small_config(qk_norm=True).init(jax.random.key(0)))
    quantizer, codes, labels = make_quantizer((16,), 8), random_codes((16,) * 3), jnp.array([1, 4])
    before = logits_of(model, quantizer, codes, labels)[0]
    larger = model.with_trained(jax.tree.map(jnp.copy, model.network))
    larger.network.body.blocks.query.kernel = larger.network.body.blocks.query.kernel * 3.0
    larger.network.body.blocks.query.bias = larger.network.body.blocks.query.bias * 3.0
    np.testing.assert_allclose(logits_of(larger, quantizer, codes, labels)[0], before, rtol=1e-3, atol=1e-4)


def test_rotated_products_depend_on_the_distance_along_each_axis():
    angles = jnp.asarray(rope_angles(1, 4, 5, 8))
    assert angles.shape == (21, 4)
    np.testing.assert_array_equal(angles[0], 0)
    draw = np.random.default_rng(0)
    q, k = (jnp.asarray(draw.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))
    turned = lambda x, row, column: rotate(x, angles[None, 1 + 5 * row + column][:, None])[0, 0, 0]  # noqa: E731
    products = {
        at: float(jnp.dot(turned(q, *at), turned(k, at[0] + 1, at[1] + 2))) for at in ((0, 0), (2, 0), (0, 2), (1, 1))
    }
    np.testing.assert_allclose(list(products.values()), products[0, 0], rtol=1e-4)
    other = float(jnp.dot(turned(q, 0, 0), turned(k, 2, 1)))
    assert abs(other - products[0, 0]) > 1e-2


def test_heads_that_cannot_turn_are_refused():
    with pytest.raises(InputError, match=r"rope with heads of 2 features \(dim / body_heads\): choose a multiple of 4"):
        small_config(rope=True, dim=8, body_heads=4, head_heads=2).check()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_prior_with_options_has_no_official_form(options):
    model = jax.eval_shape(small_config(**options).init, jax.random.key(0))
    with pytest.raises(InputError, match=f"a prior with {' and '.join(options)} has no official form"):
        to_torch(model)
