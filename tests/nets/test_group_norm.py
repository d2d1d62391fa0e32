import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rqjax.nets.group_norm import GroupNorm


def pair(dtype) -> tuple[nnx.GroupNorm, GroupNorm]:
    """nnx's and ours with the same scales and shifts, 4 groups of 16 channels."""
    plain, found = (
        kind(16, 4, epsilon=1e-6, dtype=dtype, use_fast_variance=False, rngs=nnx.Rngs(0))
        for kind in (nnx.GroupNorm, GroupNorm)
    )
    for module in (plain, found):
        module.scale[...], module.bias[...] = jnp.linspace(0.5, 2, 16), jnp.linspace(-1, 1, 16)
    return plain, found


@pytest.mark.parametrize(("dtype", "roundings"), [(jnp.float32, 60), (jnp.bfloat16, 8)])
def test_results_and_gradients_are_those_of_nnx(dtype, roundings):
    """To the roundings of a sum over 60 pixels; one in bfloat16 is kept in float32 until its end."""
    plain, found = pair(dtype)
    x = 3 * jax.random.normal(jax.random.key(0), (2, 6, 5, 16)) + jnp.arange(16.0)
    eps = float(jnp.finfo(dtype).eps)

    def loss(module, x):
        y = module(x)
        return jnp.sum(jnp.sin(y.astype(jnp.float32))), y

    (_, y), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(found, x)
    (_, expected_y), expected = jax.value_and_grad(loss, (0, 1), has_aux=True)(plain, x)
    assert y.dtype == expected_y.dtype == dtype
    for a, b in zip(jax.tree.leaves((y, gradients)), jax.tree.leaves((expected_y, expected)), strict=True):
        a, b = (np.asarray(value, np.float32) for value in (a, b))
        np.testing.assert_allclose(a, b, rtol=0, atol=roundings * eps * max(np.abs(b).max(), 1))


def test_large_images_lose_no_digits():
    """Sums of 65,536 numbers that lie far from zero, against float64."""
    _, norm = pair(jnp.float32)
    x = np.random.RandomState(0).randn(1, 256, 256, 16) + 10
    groups = np.float32(x).astype(np.float64).reshape(-1, 4, 4)
    mean, variance = (f(groups, axis=(0, 2), keepdims=True) for f in (np.mean, np.var))
    expected = ((groups - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape)
    expected = expected * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])
    np.testing.assert_allclose(jax.jit(norm)(jnp.float32(x)), expected, rtol=0, atol=2e-5)
