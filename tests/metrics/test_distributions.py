import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from rqjax import mesh, metrics
from rqjax.metrics import moments
from tests.conftest import Golden

PUBLIC = json.loads((pathlib.Path(__file__).parent.parent / "golden/metrics/public/figures.json").read_text())


@pytest.fixture(scope="module")
def case():
    return Golden("metrics/distribution_metrics")


def gaussian(features: np.ndarray) -> metrics.Gaussian:
    sums = metrics.Moments(features.shape[1])
    sums.add(features)
    return sums.gaussian()


def test_frechet_distance_is_the_reference(case, figures):
    real, made = (gaussian(case.data[name]) for name in ("F1", "F2"))
    np.testing.assert_allclose(real.covariance, np.cov(case.data["F1"], rowvar=False), rtol=1e-12)
    found = metrics.frechet_distance(real, made)
    figures("Frechet distance of the golden case, relative error", f"{abs(found / case.meta['fid'] - 1):.1e}")
    assert found == pytest.approx(case.meta["fid"], rel=1e-9)
    assert metrics.frechet_distance(real, real) == pytest.approx(0, abs=1e-9)


def test_singular_covariances_have_a_distance(case):
    """Ten features of 24 numbers; between Gaussians that share their axes the distance is that of the roots."""
    few = gaussian(case.data["F1"][:10])
    assert np.linalg.matrix_rank(few.covariance) == 9
    larger = metrics.Gaussian(few.mean + 1, 4 * few.covariance)
    assert metrics.frechet_distance(few, larger) == pytest.approx(24 + np.trace(few.covariance), rel=1e-6)
    with pytest.raises(ValueError, match="Gaussians of 24 and 3 features"):
        metrics.frechet_distance(few, metrics.Gaussian(np.zeros(3), np.eye(3)))


def test_inception_score_is_the_reference(case):
    logits = case.data["logits"]
    edges = metrics.equal_parts(len(logits), case.meta["is_splits"])
    mean, std = metrics.inception_score(logits, edges, unbiased=True)
    assert mean == pytest.approx(case.meta["inception_score_mean"], rel=1e-9)
    assert std == pytest.approx(case.meta["inception_score_std_unbiased"], rel=1e-9)


def test_inception_score_of_shuffled_images_is_that_of_torch_fidelity(case):
    found = metrics.inception_score(case.data["logits"], metrics.equal_parts(100, 7), seed=2020)
    np.testing.assert_allclose(found, PUBLIC["inception_score"], rtol=1e-9)


def test_parts_of_adm_keep_their_size():
    assert metrics.parts_of(10, 4) == [0, 4, 8, 10]
    assert metrics.parts_of(8, 4) == [0, 4, 8]


def test_precision_and_recall_are_the_reference(case):
    precision, recall = metrics.precision_recall(case.data["F1"], case.data["F2"])
    assert precision == pytest.approx(case.meta["precision_k3"], rel=1e-6)
    assert recall == pytest.approx(case.meta["recall_k3"], rel=1e-6)
    with pytest.raises(ValueError, match="3 neighbours"):
        metrics.precision_recall(case.data["F1"][:3], case.data["F2"])


def test_precision_survives_a_far_away_mean(case):
    """A thousand deviations off, squares alone would leave float32 no digit of a distance."""
    precision, recall = metrics.precision_recall(case.data["F1"] + 1000, case.data["F2"] + 1000)
    assert precision == pytest.approx(case.meta["precision_k3"], abs=1e-6)
    assert recall == pytest.approx(case.meta["recall_k3"], abs=1e-6)


def test_kernel_distance_is_that_of_torch_fidelity(case):
    found = metrics.kernel_distance(case.data["F2"], case.data["F1"], subsets=5, size=50)
    np.testing.assert_allclose(found, PUBLIC["kernel_distance"], rtol=1e-9)
    with pytest.raises(ValueError, match="subsets of 1000"):
        metrics.kernel_distance(case.data["F2"], case.data["F1"])


def test_mind_of_shifted_features_is_known(case):
    """A shift moves every projection by itself: 3 d times the mean square of a unit vector's product with it."""
    real, shift = case.data["F1"], np.full(24, 0.5)
    units = np.random.RandomState(0).standard_normal((1000, 24))
    products = units @ shift / np.linalg.norm(units, axis=1)
    found = metrics.mind(real, real + shift)
    assert found == pytest.approx(3 * 24 * np.mean(products**2), rel=1e-5)
    assert found == pytest.approx(3 * np.sum(shift**2), rel=0.2)  # on average over all directions
    assert metrics.mind(real, real) == 0


def test_mind_of_unlike_counts_is_that_of_repeated_features(case):
    """Features repeated until both sides are equally many are the same two distributions."""
    real, made = case.data["F1"], case.data["F2"]
    plain = metrics.mind(real, made, directions=40)
    repeated = metrics.mind(np.repeat(real, 3, axis=0), np.repeat(made, 4, axis=0), directions=40)
    assert plain == pytest.approx(repeated, rel=1e-5)


def test_statistics_are_those_of_one_device_whatever_the_batches(case, figures):
    """37 rows in batches of 16 over eight devices, the last filled up, against one device and one batch."""
    devices, rng = mesh.make_mesh(), np.random.default_rng(0)
    images, kernel = rng.standard_normal((48, 30), np.float32), jnp.asarray(rng.standard_normal((30, 24)), jnp.float32)
    split = NamedSharding(devices, mesh.rows(devices))
    features = jax.jit(lambda x: jax.nn.relu(x @ kernel))
    many, one = metrics.Moments(24), metrics.Moments(24)
    for start in range(0, 48, 16):
        counts = jax.device_put(np.arange(start, start + 16) < 37, split)
        many.add(features(jax.device_put(images[start : start + 16], split)), counts)
    one.add(features(images[:37]))
    assert many.count == one.count == 37
    other = gaussian(case.data["F1"])
    a, b = (metrics.frechet_distance(sums.gaussian(), other) for sums in (many, one))
    figures("Frechet distance over 8 devices and over 1, relative difference", f"{abs(a / b - 1):.1e}")
    assert a == pytest.approx(b, rel=1e-6)
    np.testing.assert_allclose(many.gaussian().covariance, one.gaussian().covariance, rtol=1e-6, atol=1e-6)


def test_processes_join_their_sums_bit_for_bit(case, monkeypatch):
    whole, parts = metrics.Moments(24), [metrics.Moments(24), metrics.Moments(24)]
    whole.add(case.data["F1"])
    parts[0].add(case.data["F1"][:133])
    parts[1].add(case.data["F1"][133:])
    sent = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)

    def gather(packed):
        assert packed.dtype == np.uint32  # the only kind that JAX moves as it is
        sent.append(packed)
        return np.stack(sent * (2 // len(sent)))

    monkeypatch.setattr(moments.multihost_utils, "process_allgather", gather)
    parts[0].of_all_processes()
    joined = parts[1].of_all_processes()
    assert joined.count == 400
    np.testing.assert_array_equal(joined.total, parts[0].total + parts[1].total)
    np.testing.assert_array_equal(joined.products, parts[0].products + parts[1].products)
    np.testing.assert_allclose(joined.products, whole.products, rtol=1e-12, atol=1e-12)


def test_statistics_are_kept_as_the_evaluators_do(case, tmp_path):
    real, spatial = gaussian(case.data["F1"]), gaussian(case.data["F2"])
    metrics.save_gaussians(tmp_path / "both.npz", real, spatial)
    with np.load(tmp_path / "both.npz") as data:
        assert sorted(data.files) == ["mu", "mu_s", "sigma", "sigma_s"]
    found = metrics.load_gaussians(tmp_path / "both.npz")
    assert np.array_equal(found[0].covariance, real.covariance)
    assert found[1] is not None
    assert np.array_equal(found[1].mean, spatial.mean)
    metrics.save_gaussians(tmp_path / "one.npz", real)
    assert metrics.load_gaussians(tmp_path / "one.npz")[1] is None
    np.savez(tmp_path / "other.npz", arr_0=np.zeros(3))
    with pytest.raises(ValueError, match="holds arr_0: expected arrays mu and sigma"):
        metrics.load_gaussians(tmp_path / "other.npz")


def test_one_row_has_no_covariance():
    sums = metrics.Moments(2)
    sums.add(np.ones((1, 2)))
    with pytest.raises(ValueError, match="1 rows of features"):
        sums.gaussian()
