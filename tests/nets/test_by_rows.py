import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rqjax.nets import by_rows, decoding
from rqjax.nets.by_rows import FINE, Linear, LinearInt8, joined, twice
from rqjax.nets.int8 import LARGEST, Int8Linear, kernel_of
from tests import small_rq

INPUTS, OUTPUTS = 24, 6


def whole(seed: int, *shape: int, dtype=jnp.float32) -> jax.Array:
    """Numbers from -3 to 3: their products are added exactly, in any order."""
    return jax.random.randint(jax.random.key(seed), shape, -3, 4).astype(dtype)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("images", "tokens"), [(1, 1), (1, 3), (4, 1), (2, 3)])
def test_a_product_is_that_of_each_row(images, tokens, dtype):
    kernel, bias = whole(0, OUTPUTS, INPUTS, dtype=dtype), whole(1, OUTPUTS, dtype=dtype)
    x = whole(2, images, tokens, INPUTS, dtype=dtype)
    y = Linear(kernel, bias)(x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.astype(jnp.float32), np.einsum("bni,oi->bno", *map(np.float32, (x, kernel))) + bias)


@pytest.mark.parametrize(("images", "tokens"), [(1, 1), (1, 3), (4, 1), (2, 3)])
def test_a_product_with_int8_is_that_of_the_kernel_to_the_rounding_of_inputs(images, tokens):
    x = jax.random.normal(jax.random.key(0), (images, tokens, INPUTS))
    x = x * 10.0 ** jnp.arange(-2, images * tokens - 2).reshape(images, tokens, 1)  # each row has steps of its own
    numbers = jax.random.randint(jax.random.key(1), (OUTPUTS, INPUTS), -LARGEST, LARGEST + 1, jnp.int8)
    scale, bias = jnp.arange(1.0, OUTPUTS + 1) / 50, jnp.arange(OUTPUTS) - 2.5
    found = np.asarray(LinearInt8(numbers, scale, bias)(x), np.float64)
    kernel = np.asarray(numbers, np.float64) * np.asarray(scale, np.float64)[:, None]
    expected = np.asarray(x, np.float64) @ kernel.T + np.asarray(bias)
    largest = np.max(np.abs(x), axis=-1, keepdims=True)
    rounding = largest / LARGEST / FINE / 2 * np.sum(np.abs(kernel), axis=1)
    # and float32: of x / step, which is 127 at most, and of a few products and sums
    arithmetic = 8 * np.finfo(np.float32).eps * largest * np.sum(np.abs(kernel), axis=1)
    assert np.all(np.abs(found - expected) <= rounding + arithmetic + 1e-6 * np.abs(bias))
    coarse = largest / LARGEST / 2 * np.max(np.abs(kernel), axis=1)  # what one row of int8 might do to one input
    assert np.max(np.abs(found - expected) / coarse) < 0.1


def test_a_row_of_zeros_gives_the_bias():
    layer = LinearInt8(jnp.ones((OUTPUTS, INPUTS), jnp.int8), jnp.ones(OUTPUTS), jnp.arange(6.0))
    np.testing.assert_array_equal(layer(jnp.zeros((1, 1, INPUTS)))[0, 0], jnp.arange(6.0))


@pytest.mark.parametrize(
    ("layer", "dots"),
    [
        (Linear(jnp.zeros((OUTPUTS, INPUTS), jnp.bfloat16), None), ["2x24xbf16", "6x24xbf16", "2x6xf32"]),
        (
            LinearInt8(jnp.ones((OUTPUTS, INPUTS), jnp.int8), jnp.ones(6), None),
            ["2x24xi8", "6x24xi8", "2x6xi32"],
        ),
        (Linear(jnp.zeros((OUTPUTS, INPUTS)), None), ["1x24xf32", "6x24xf32", "1x6xf32"]),
    ],
    ids=["bfloat16", "int8", "float32"],
)
def test_a_lone_row_meets_what_a_cpu_multiplies_as_it_is(layer, dots):
    lowered = jax.jit(lambda layer, x: layer(x)).lower(layer, jnp.ones((1, 1, INPUTS))).as_text()
    (found,) = re.findall(r"dot_general .*\(tensor<(.*?)>, tensor<(.*?)>\) -> tensor<(.*?)>", lowered)
    assert list(found) == dots


def test_only_a_cpu_has_rows_twice_and_kernels_of_int8(monkeypatch):
    small = Int8Linear(nnx.LinearGeneral(INPUTS, OUTPUTS, rngs=nnx.Rngs(0)))
    pattern = "part inputs outputs -> (part outputs) inputs", "part outputs -> (part outputs)"
    row = jnp.ones((1, INPUTS), jnp.bfloat16)
    layer = joined([small], *pattern)
    assert type(layer) is LinearInt8
    np.testing.assert_array_equal(layer.kernel[...], small.kernel[...].T)
    assert twice(row).shape[0] == 2
    monkeypatch.setattr(by_rows, "platform", lambda: "gpu")
    layer = joined([small], *pattern)
    assert type(layer) is Linear
    np.testing.assert_array_equal(layer.kernel[...], kernel_of(small).T)
    assert twice(row).shape[0] == 1


def test_caches_of_a_cpu_are_float32_and_counted_so():
    half, full = (small_rq.small_config(dtype=dtype).init(jax.random.key(0)) for dtype in ("bfloat16", "float32"))
    assert {x.dtype for x in jax.tree.leaves(decoding.empty_caches(half.trained.body, 2, 5))} == {jnp.dtype("float32")}
    assert half.footprint.row == full.footprint.row
    assert half.footprint.layers == full.footprint.layers // 2
