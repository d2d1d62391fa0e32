import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.cost.flops import count
from rqjax.nets.matmul import matmul

CASES = {  # tokens, inputs and outputs, and the axes that are summed over
    "one axis": ((2, 3, 5), (4,), (6,), ((3,), (0,))),
    "heads of queries": ((2, 3), (4,), (2, 5), ((2,), (0,))),
    "heads together": ((2, 3), (2, 5), (4,), ((2, 3), (0, 1))),
}


def whole(seed: int, *shape: int, dtype=jnp.float32) -> jax.Array:
    """Numbers from -3 to 3: their products are added exactly, in any order."""
    return jax.random.randint(jax.random.key(seed), shape, -3, 4).astype(dtype)


def gradients(function, tokens, inputs, outputs, summed, dtype=jnp.float32, **options):
    x, kernel = whole(0, *tokens, *inputs, dtype=dtype), whole(1, *inputs, *outputs, dtype=dtype)
    y, back = jax.vjp(lambda x, kernel: function(x, kernel, (summed, ((), ())), **options), x, kernel)
    return y, *back(whole(2, *tokens, *outputs).astype(y.dtype))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize(
    ("dtype", "options"),
    [(jnp.float32, {}), (jnp.bfloat16, {}), (jnp.bfloat16, {"preferred_element_type": jnp.float32})],
)
def test_results_and_gradients_are_those_of_dot_general(case, dtype, options):
    found = gradients(matmul, *case, dtype, **options)
    for x, y in zip(found, gradients(jax.lax.dot_general, *case, dtype, **options), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_no_operation_is_counted_that_dot_general_does_without(case):
    def operations(function) -> int:
        return count(jax.make_jaxpr(lambda: gradients(function, *case))()).total

    assert operations(matmul) == operations(jax.lax.dot_general) > 0


def test_by_default_the_last_axis_meets_the_first():
    x, kernel = whole(0, 2, 3, 4), whole(1, 4, 5)
    np.testing.assert_array_equal(matmul(x, kernel), x @ kernel)


@pytest.mark.parametrize(("platform", "same"), [("tpu", True), ("cuda", True), ("cpu", False)])
def test_only_a_cpu_has_other_products(platform, same):
    def dots(function) -> list[str]:
        lowered = jax.jit(lambda: gradients(function, *CASES["one axis"])).trace().lower(lowering_platforms=(platform,))
        return sorted(re.findall(r"contracting_dims = \[.*?\] x \[.*?\]", lowered.as_text()))

    assert (dots(matmul) == dots(jax.lax.dot_general)) == same
