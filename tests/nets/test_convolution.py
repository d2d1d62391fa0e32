import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.cost.flops import count
from rqjax.nets import convolution
from rqjax.nets.convolution import convolve, kernel_gradient

OPTIONS = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


def whole(seed: int, *shape: int) -> jax.Array:
    """Numbers from -3 to 3: float32 adds their products exactly, in any order."""
    return jax.random.randint(jax.random.key(seed), shape, -3, 4).astype(jnp.float32)


@pytest.mark.parametrize(("inputs", "outputs"), [(5, 7), (7, 2)])
def test_products_equal_the_definition(monkeypatch, inputs, outputs):
    monkeypatch.setattr(convolution, "TOGETHER", 24)  # two rows of two images of width 6
    x, gradient = whole(0, 2, 8, 6, inputs), whole(1, 2, 8, 6, outputs)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = np.array([[padded[:, i : i + 8, j : j + 6] for j in range(3)] for i in range(3)])
    expected = np.einsum("ijbhwp,bhwq->ijpq", shifted, gradient)
    np.testing.assert_array_equal(kernel_gradient(x, gradient, jnp.float32), expected)


def lowered(size: int, platform: str, strides=(1, 1), padding="SAME") -> str:
    x, kernel = jnp.zeros((1, size, size, 3)), jnp.zeros((3, 3, 3, 2))

    def loss(kernel: jax.Array) -> jax.Array:
        return jnp.sum(convolve(x, kernel, strides, padding, **OPTIONS) ** 2)

    return jax.jit(jax.grad(loss)).trace(kernel).lower(lowering_platforms=(platform,)).as_text()


def test_only_a_cpu_with_large_images_uses_products():
    assert "while" in lowered(128, "cpu")
    assert "while" not in lowered(128, "tpu")
    assert "while" not in lowered(64, "cpu")
    assert "while" not in lowered(128, "cpu", strides=(2, 2), padding=((0, 1), (0, 1)))


def test_gradients_of_large_images_equal_the_plain_ones():
    x, kernel, weights = whole(0, 1, 128, 128, 3), whole(1, 3, 3, 3, 4), whole(2, 1, 128, 128, 4)

    def gradients(function):
        return jax.jit(jax.grad(lambda *a: jnp.sum(weights * function(*a, (1, 1), "SAME", **OPTIONS)), (0, 1)))(
            x, kernel
        )

    for found, expected in zip(gradients(convolve), gradients(jax.lax.conv_general_dilated), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_no_operation_is_counted_that_the_plain_ones_do_without():
    x, kernel = jnp.zeros((1, 128, 128, 3)), jnp.zeros((3, 3, 3, 4))

    def operations(function) -> int:
        loss = jax.grad(lambda *a: jnp.sum(function(*a, (1, 1), "SAME", **OPTIONS) ** 2), (0, 1))
        return count(jax.make_jaxpr(loss)(x, kernel)).total

    assert operations(convolve) == operations(jax.lax.conv_general_dilated) > 0
