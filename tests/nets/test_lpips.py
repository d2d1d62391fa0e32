import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.errors import InputError
from rqjax.torchfile import file
from rqjax.torchfile.lpips import from_torch, load_lpips, shipped_lin
from tests.conftest import Golden


@pytest.fixture(scope="module")
def case():
    return Golden("metrics/lpips_vgg16")


@pytest.fixture(scope="module")
def official(case):
    return from_torch({**case.state_dict(), "classifier.0.weight": np.zeros((2, 2))}, shipped_lin())


def images(case):
    return tuple(jnp.asarray(case.data[name].transpose(0, 2, 3, 1)) for name in ("a", "b"))


def test_shipped_lin_layers_are_those_of_the_reference(case):
    lin = shipped_lin()
    assert len(lin) == 5
    for i in range(5):
        np.testing.assert_array_equal(lin[f"lin{i}.model.1.weight"].ravel(), case.data[f"lin{i}"])
        assert lin[f"lin{i}.model.1.weight"].min() >= 0


def test_distances_and_gradient_equal_the_reference(case, official):
    a, b = images(case)

    def loss(b, lpips):
        distance = lpips(a, b)
        return jnp.mean(distance), distance

    gradient, distance = jax.jit(jax.grad(loss, has_aux=True))(b, official)
    np.testing.assert_allclose(distance, case.data["distance"], rtol=1e-4)
    assert float(jnp.linalg.norm(gradient)) == pytest.approx(case.meta["grad_norm_b"], rel=1e-3)
    np.testing.assert_allclose(jnp.sum(gradient, (1, 2, 3)), case.data["grad_b_sum"], rtol=1e-3)


def test_gradient_is_finite_where_features_vanish(case, official):
    state_dict = {**case.state_dict(), "features.2.bias": np.full(64, -100, np.float32)}
    dead = from_torch(state_dict, shipped_lin())
    assert float(jnp.abs(next(dead.taps(jnp.zeros((1, 16, 16, 3))))).max()) == 0
    x = jax.random.normal(jax.random.key(0), (1, 16, 16, 3))
    gradient = jax.jit(jax.grad(lambda y, lpips: jnp.sum(lpips(x, y))))
    for lpips in (dead, official):
        for y in (x, -x):
            assert jnp.isfinite(gradient(y, lpips)).all()


def test_odd_sizes_pool_as_pytorch_does_and_small_ones_are_refused(official):
    x = jax.random.normal(jax.random.key(0), (1, 19, 30, 3))
    assert [tap.shape[1:3] for tap in official.taps(x)] == [(19, 30), (9, 15), (4, 7), (2, 3), (1, 1)]
    with pytest.raises(InputError, match="LPIPS of 8x8 images"):
        official(x[:, :8, :8], x[:, :8, :8])


def test_bfloat16_is_close(case, official):
    a, b = images(case)
    half = from_torch(case.state_dict(), shipped_lin(), jnp.bfloat16)
    np.testing.assert_allclose(half(a, b), official(a, b), rtol=0.03)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"vgg16_path='nowhere.pth' is not a file: download vgg16-397923af.pth"):
        load_lpips("nowhere.pth")
    other = tmp_path / "vgg16-397923af.pth"
    other.write_bytes(b"truncated")
    with pytest.raises(InputError, match=r"has SHA-256 \w{8}\.\.\., expected 397923af\.\.\.: download"):
        load_lpips(str(other))


def test_files_give_the_same_distances(case, official, tmp_path):
    vgg16 = str(tmp_path / "vgg16.pth")
    file.save(vgg16, case.state_dict())
    a, b = images(case)
    loaded = load_lpips(vgg16, verify=False)
    np.testing.assert_array_equal(loaded(a[:, :16, :16], b[:, :16, :16]), official(a[:, :16, :16], b[:, :16, :16]))
