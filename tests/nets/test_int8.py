"""Layers with their weights in int8: what the numbers stand for, and that both forms of decoding draw by them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rqjax.flags import precisions
from rqjax.mesh import name_of
from rqjax.nets.int8 import LARGEST, LAYERS, Int8Linear, kernel_of
from rqjax.nets.precision import INT8, PRECISIONS, in_precision
from rqjax.nets.sampling import Draw
from tests import small_dq, small_rq
from tests.dq.test_texts import TEXTS, made
from tests.nets.test_decoding import forget, scanned  # noqa: F401

GREEDY = Draw(temperature=0.0)


def test_the_flags_name_each_precision_that_there_is():
    assert tuple(precisions.NAMES) == PRECISIONS


def layer(inputs, outputs, axis, bias=True):
    rngs = nnx.Rngs(0)
    return nnx.LinearGeneral(
        inputs, outputs, axis=axis, use_bias=bias, kernel_init=nnx.initializers.normal(0.3),
        bias_init=nnx.initializers.normal(1.0), rngs=rngs,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("inputs", "outputs", "axis", "bias"), [(8, (4, 6), -1, True), ((4, 6), 8, (-2, -1), True), (8, 5, -1, False)]
)
def test_numbers_stand_for_a_kernel_to_half_a_step_of_each_channel(inputs, outputs, axis, bias):
    """And the product is that of the kernel which they stand for."""
    linear = layer(inputs, outputs, axis, bias)
    linear.kernel[...] = linear.kernel[...].at[..., 1].multiply(100.0)  # a channel of other size costs no other one
    small = Int8Linear(linear)
    kernel, count = linear.kernel[...], len(linear.axis)
    assert small.kernel.dtype == jnp.int8
    assert small.scale.shape == kernel.shape[count:]
    largest = np.max(np.abs(kernel), axis=tuple(range(count)))
    np.testing.assert_allclose(small.scale[...] * LARGEST, largest, rtol=1e-6)
    assert np.all(np.abs(kernel_of(small) - kernel) <= largest / LARGEST / 2 * (1 + 1e-5))
    assert np.all(np.max(np.abs(small.kernel[...]), axis=tuple(range(count))) == LARGEST)

    x = jax.random.normal(jax.random.key(1), (3, 2, *kernel.shape[:count]))
    stood_for = layer(inputs, outputs, axis, bias)
    stood_for.kernel[...] = kernel_of(small)
    np.testing.assert_allclose(small(x), stood_for(x), rtol=1e-5, atol=1e-4)


def test_a_channel_of_zeros_stays_zero():
    linear = layer(4, 3, -1, bias=False)
    linear.kernel[...] = linear.kernel[...].at[:, 1].set(0.0)
    assert np.array_equal(Int8Linear(linear)(jnp.ones((1, 2, 4)))[..., 1], np.zeros((1, 2)))


def test_the_layers_that_draw_are_int8_and_nothing_else():
    model = made(dim=32, content_layers=2)
    small = in_precision(model, INT8)
    leaves = jax.tree_util.tree_leaves_with_path(small)
    names = {name_of(path) for path, x in leaves if x.dtype == jnp.int8}
    stacks = ("position_stack", "content_stack")
    assert names == {f"network/{stack}/blocks/{name}/kernel" for stack in stacks for name in LAYERS}
    assert {x.dtype for _, x in leaves} == {jnp.dtype("int8"), jnp.dtype("float32")}
    assert not [x for x in jax.tree.leaves(model) if x.dtype == jnp.int8]  # as it was


def of_rq():
    model = small_rq.strong(small_rq.small_config().init(jax.random.key(0)), 10.0)
    tokenizer = small_rq.tokenizer_with(small_rq.make_quantizer((16,), 8))
    return model, lambda model: model.generate(tokenizer, jnp.array([1, 4, 0, 2]), jax.random.key(0), GREEDY)


def of_dq():
    model = small_dq.strong(small_dq.small_config(dim=32).init(jax.random.key(3)))
    return model, lambda model: model.generate(None, jnp.arange(4) % 3, jax.random.key(0), GREEDY).codes


def of_texts():
    model = made(dim=32, content_layers=2)
    return model, lambda model: model.generate(None, TEXTS, jax.random.key(0), Draw(top_p=0.9)).codes


@pytest.mark.parametrize("family", [of_rq, of_dq, of_texts])
def test_both_forms_draw_the_codes_of_the_kernels_that_the_numbers_stand_for(scanned, family):  # noqa: F811
    model, drawn = family()
    small = in_precision(model, INT8)
    found = drawn(small)
    assert len(np.unique(found)) > 3
    np.testing.assert_array_equal(found, drawn(_stood_for(small, model)))
    scanned()
    np.testing.assert_array_equal(drawn(small), found)
    forget()


def _stood_for(small, like):
    """The model of floats that an int8 one stands for."""
    arrays = {name_of(path): x for path, x in jax.tree_util.tree_leaves_with_path(small)}

    def kernel(path, x):
        found = arrays[name_of(path)]
        if found.dtype != jnp.int8:
            return found
        scale = arrays[name_of(path).removesuffix("kernel") + "scale"]
        inputs = found.ndim - scale.ndim
        return found * scale.reshape(scale.shape[:1] + (1,) * inputs + scale.shape[1:])

    return jax.tree_util.tree_map_with_path(kernel, like)
