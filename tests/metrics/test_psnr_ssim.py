import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.metrics import ms_ssim, psnr, ssim
from tests.golden.deterministic import det_image


def by_windows(a, b):
    """SSIM of two planes in float64, window by window, as the paper writes it (equation 13, data range 1)."""
    at = np.arange(11) - 5
    weights = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            m, n = (weights * p).sum(), (weights * q).sum()
            v, w = (weights * (p - m) ** 2).sum(), (weights * (q - n) ** 2).sum()
            c = (weights * (p - m) * (q - n)).sum()
            values.append((2 * m * n + 1e-4) * (2 * c + 9e-4) / ((m**2 + n**2 + 1e-4) * (v + w + 9e-4)))
    return np.mean(values)


@pytest.fixture(scope="module")
def pair():
    """Two images and worse ones: noise over a ramp, and nearly flat, where float32 would lose the variance first."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 14)[:, None, None] * np.ones((14, 17, 3))
    flat = np.full((14, 17, 3), 0.9)
    images = np.stack([0.7 * ramp + 0.3 * rng.random(ramp.shape), flat + 2e-3 * rng.random(flat.shape)])
    return images, np.clip(
        images + np.array([0.1, 1e-3])[:, None, None, None] * rng.standard_normal(images.shape), 0, 1
    )


def test_ssim_is_that_of_the_paper(pair):
    a, b = pair
    expected = [np.mean([by_windows(x[..., c], y[..., c]) for c in range(3)]) for x, y in zip(a, b, strict=True)]
    found = jax.jit(ssim)(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
    # a variance errs by a few roundings of squares of at most 1/4, and is divided by 9e-4 or more
    np.testing.assert_allclose(found, expected, atol=8 * 2**-24 * 0.25 / 9e-4)
    assert expected[0] < 0.9


def test_equal_images_are_the_most_alike(pair):
    a = jnp.asarray(pair[0], jnp.float32)
    np.testing.assert_allclose(ssim(a, a), 1, atol=1e-6)
    np.testing.assert_allclose(psnr(a, a), 100)


def test_psnr_is_the_logarithm_of_the_error(pair):
    a, b = pair
    expected = -10 * np.log10(np.mean((a - b) ** 2, axis=(1, 2, 3)))
    np.testing.assert_allclose(psnr(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)), expected, atol=2e-3)


def test_images_without_a_whole_window_are_refused():
    with pytest.raises(ValueError, match="images of 10x12: SSIM needs 11x11"):
        ssim(jnp.zeros((1, 10, 12, 3)), jnp.zeros((1, 10, 12, 3)))


def test_similarity_over_scales_is_that_of_pytorch_msssim():
    """Figures of the public code (tests/golden/metrics/public), for 176x208 pixels: the coarsest scale has 11x13."""
    folder = pathlib.Path(__file__).parent.parent / "golden/metrics/public"
    expected = json.loads((folder / "figures.json").read_text())["ms_ssim"]
    image, other = (det_image(name, (2, 3, 176, 208)).transpose(0, 2, 3, 1) / 2 + 0.5 for name in ("first", "second"))
    other = 0.7 * image + 0.3 * other
    np.testing.assert_allclose(jax.jit(ms_ssim)(jnp.asarray(image), jnp.asarray(other)), expected, rtol=1e-4)
    np.testing.assert_allclose(jax.jit(ms_ssim)(jnp.asarray(image), jnp.asarray(image)), 1, atol=1e-5)
    with pytest.raises(ValueError, match="MS-SSIM needs 176x176"):
        ms_ssim(jnp.zeros((1, 175, 300, 3)), jnp.zeros((1, 175, 300, 3)))
