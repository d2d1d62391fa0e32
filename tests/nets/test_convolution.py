import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.cost.flops import count
from rqjax.nets import convolution
from rqjax.nets.convolution import convolve, in_pairs_of_rows, kernel_gradient

OPTIONS = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


def whole(seed: int, *shape: int) -> jax.Array:
    """Numbers from -3 to 3: float32 adds their products exactly, in any order."""
    return jax.random.randint(jax.random.key(seed), shape, -3, 4).astype(jnp.float32)


def shifted(x: np.ndarray) -> np.ndarray:
    """What each place of a 3x3 window sees of padded images: [3 3 b h w channels]."""
    _, h, w, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return np.array([[padded[:, i : i + h, j : j + w] for j in range(3)] for i in range(3)])


@pytest.mark.parametrize(("inputs", "outputs"), [(5, 7), (7, 2)])
def test_products_equal_the_definition(monkeypatch, inputs, outputs):
    monkeypatch.setattr(convolution, "TOGETHER", 24)  # two rows of two images of width 6
    x, gradient = whole(0, 2, 8, 6, inputs), whole(1, 2, 8, 6, outputs)
    expected = np.einsum("ijbhwp,bhwq->ijpq", shifted(np.asarray(x)), gradient)
    np.testing.assert_array_equal(kernel_gradient(x, gradient, jnp.float32), expected)


@pytest.mark.parametrize("shape", [(2, 2, 5, 3), (1, 8, 4, 6)])
def test_pairs_of_rows_equal_the_plain_convolution(shape):
    """Exactly: halves of such numbers are exact too."""
    x, kernel = whole(0, *shape), whole(1, 3, 3, shape[-1], 4)
    plain = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", **OPTIONS)
    np.testing.assert_array_equal(in_pairs_of_rows(x, kernel), plain)


def test_pairs_of_rows_round_little_more_than_the_plain_convolution():
    """The root of the mean square of the error, beside a sum in float64, at most four times as large."""
    keys = jax.random.split(jax.random.key(0))
    x, kernel = jax.random.normal(keys[0], (1, 16, 16, 128)), jax.random.normal(keys[1], (3, 3, 128, 64))
    expected = np.einsum("ijbhwp,ijpq->bhwq", shifted(np.asarray(x, np.float64)), np.asarray(kernel, np.float64))
    plain = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", **OPTIONS)
    errors = [np.sqrt(np.mean((np.asarray(y) - expected) ** 2)) for y in (plain, in_pairs_of_rows(x, kernel))]
    assert errors[1] < 4 * max(errors[0], 1152**0.5 * 2.0**-25)


def lowered(
    size: int, platform: str, strides=(1, 1), padding="SAME", channels=(3, 2), width=0, dtype=jnp.float32
) -> str:
    """A convolution and its gradients as text."""
    x, kernel = jnp.zeros((1, size, width or size, channels[0]), dtype), jnp.zeros((3, 3, *channels), dtype)

    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.sum(convolve(x, kernel, strides, padding, **OPTIONS) ** 2)

    return jax.jit(jax.grad(loss, (0, 1))).trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()


def test_only_a_cpu_with_large_images_uses_products():
    assert "while" in lowered(128, "cpu")
    assert "while" not in lowered(128, "tpu")
    assert "while" not in lowered(64, "cpu")
    assert "while" not in lowered(128, "cpu", strides=(2, 2), padding=((0, 1), (0, 1)))


def wide_convolutions(platform: str, width: int = 64, dtype=jnp.float32) -> int:
    """How many convolutions of one row of a kernel forward and back have."""
    text = lowered(256, platform, channels=(64, 64), width=width, dtype=dtype)
    return text.count("tensor<1x3x64x64xf32>) -> tensor<1x128x")


def test_only_wide_convolutions_of_a_cpu_in_float32_go_by_pairs_of_rows():
    assert wide_convolutions("cpu") == 8  # four forward, four for the gradient of the input
    assert wide_convolutions("tpu") == 0
    assert wide_convolutions("cpu", width=16) == 0
    assert wide_convolutions("cpu", dtype=jnp.bfloat16) == 0


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 4), (64, 64)])
def test_gradients_of_large_images_equal_the_plain_ones(inputs, outputs):
    x, kernel = whole(0, 1, 128, 128, inputs), whole(1, 3, 3, inputs, outputs)
    weights = whole(2, 1, 128, 128, outputs)

    def gradients(function):
        return jax.jit(jax.grad(lambda *a: jnp.sum(weights * function(*a, (1, 1), "SAME", **OPTIONS)), (0, 1)))(
            x, kernel
        )

    for found, expected in zip(gradients(convolve), gradients(jax.lax.conv_general_dilated), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("channels", [3, 64])
def test_no_operation_is_counted_that_the_plain_ones_do_without(channels):
    x, kernel = jnp.zeros((1, 128, 128, channels)), jnp.zeros((3, 3, channels, channels))

    def operations(function) -> int:
        loss = jax.grad(lambda *a: jnp.sum(function(*a, (1, 1), "SAME", **OPTIONS) ** 2), (0, 1))
        return count(jax.make_jaxpr(loss)(x, kernel)).total

    assert operations(convolve) == operations(jax.lax.conv_general_dilated) > 0
