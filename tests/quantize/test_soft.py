import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.quantize import QuantizerConfig, ResidualQuantizer
from tests.quantize.test_residual import GOLDEN, golden_quantizer

KEY = jax.random.key(0)
DIM = 32
draw = jax.jit(ResidualQuantizer.draw, static_argnames=("stochastic", "chunk"))
SHARED = QuantizerConfig(codebook_size=(48,), depth=3)


@pytest.fixture
def z():
    return jax.random.normal(jax.random.key(1), (8, 8, DIM))


@pytest.fixture(params=[(48,), (48, 24, 16)], ids=["shared", "separate"])
def quantizer(request):
    return QuantizerConfig(codebook_size=request.param, depth=3).init(KEY, DIM)


@pytest.mark.parametrize("stochastic", [False, True])
def test_soft_codes_are_recomputed_from_residuals(quantizer, z, stochastic):
    codes, residuals = draw(quantizer, z, KEY, 0.5, stochastic, chunk=8)
    for chunk in (1, 3):
        again, same = draw(quantizer, z, KEY, 0.5, stochastic, chunk=chunk)
        np.testing.assert_array_equal(again, codes)
        np.testing.assert_allclose(same, residuals, rtol=1e-6, atol=1e-6)
    shares, x = quantizer.distribution(residuals, 0.5), z
    for depth, size in enumerate(quantizer.sizes):
        np.testing.assert_allclose(residuals[..., depth, :], x, rtol=1e-5, atol=1e-5)
        embed = quantizer.codebooks[min(depth, len(quantizer.codebooks) - 1)].embed
        squared = jnp.sum((x[..., None, :] - embed) ** 2, axis=-1)
        np.testing.assert_allclose(shares[..., depth, :size], jax.nn.softmax(-squared / 0.5), rtol=1e-3, atol=1e-6)
        assert (np.asarray(shares[..., depth, size:]) == 0).all()
        x = x - embed[codes[..., depth]]
    if not stochastic:
        np.testing.assert_array_equal(codes, quantizer.encode(z, KEY, train=False)[0].codes)


@pytest.mark.parametrize("case", ["shared", "separate", "update_once"])
def test_draws_and_distributions_are_those_of_the_functions_before(case):
    number = ["shared", "separate", "update_once"].index(case)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), number), 50)
    decay = (0.9, 0.8, 0.7) if case == "separate" else (0.9,)
    with np.load(GOLDEN) as data:
        quantizer = golden_quantizer(data, case, "after", decay)
        z = jnp.asarray(data[f"{case}/2/z"]).reshape(4, 6, 6)
        for kind in ("nearest", "drawn"):
            codes, residuals = draw(quantizer, z, key, 0.5, kind == "drawn", chunk=4)
            np.testing.assert_array_equal(codes, data[f"{case}/{kind}/codes"].reshape(codes.shape))
            expected = data[f"{case}/{kind}/residuals"].reshape(residuals.shape)
            # differences of numbers up to 6
            np.testing.assert_allclose(residuals, expected, rtol=1e-6, atol=3 * 6 * float(jnp.finfo(jnp.float32).eps))
        shares = quantizer.distribution(residuals.reshape(4, 3, 2, 3, 6)[:1], 0.5)
        # an error e of a squared distance, here up to 100 by float32, changes a share by the factor exp(e / 0.5)
        np.testing.assert_allclose(shares, data[f"{case}/distribution"], rtol=1e-4, atol=1e-7)


def test_drawn_codes_follow_the_distribution():
    quantizer = QuantizerConfig(codebook_size=(5,), depth=1).init(KEY, 2)
    z = jnp.broadcast_to(jnp.array([0.3, -0.2]), (2, 4096, 2))
    codes, residuals = draw(quantizer, z, KEY, 2.0, True, chunk=4096)
    share = np.bincount(codes.reshape(-1), minlength=5) / codes.size
    np.testing.assert_allclose(share, quantizer.distribution(residuals, 2.0)[0, 0, 0], atol=0.02)


def test_temperature_is_not_compiled_in(z):
    quantizer = SHARED.init(KEY, DIM)
    at = jax.jit(lambda temperature: quantizer.draw(z, KEY, temperature, True, 4)[0])
    cold, hot = at(jnp.float32(1e-3)), at(jnp.float32(50.0))
    hard = quantizer.encode(z, KEY, train=False)[0].codes
    np.testing.assert_array_equal(cold, hard)
    assert (hot != hard).mean() > 0.5
    assert at._cache_size() == 1
