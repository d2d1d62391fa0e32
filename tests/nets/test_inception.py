import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.errors import InputError
from rqjax.metrics import PROTOCOLS, Moments, frechet_distance
from rqjax.nets import inception
from rqjax.store.arrays import to_arrays
from rqjax.torchfile import file
from rqjax.torchfile.inception import from_torch, load_inception
from tests.conftest import Golden, assert_near
from tests.golden.deterministic import det_array, det_image

PUBLIC = json.loads((pathlib.Path(__file__).parent.parent / "golden/metrics/public/figures.json").read_text())
NAMES = ("torch-fidelity", "pytorch-fid")


@pytest.fixture(scope="module")
def case():
    return Golden("metrics/inception_fid")


@pytest.fixture(scope="module")
def official(case):
    return from_torch(case.state_dict())


@pytest.fixture(scope="module")
def found(case, official):
    """Features, spatial features, logits with the bias and without, by where the images are from: one run for all."""
    golden = case.data["x_float"].transpose(0, 2, 3, 1)
    resized = jax.image.resize(golden, (4, 299, 299, 3), "bilinear", antialias=False)
    image = np.round((det_image("images", (2, 3, 48, 64)) + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    batch = jnp.concatenate([2 * resized - 1, *(PROTOCOLS[name].prepare(image) for name in NAMES)])

    def outputs(batch, net):
        features, spatial = net(batch)
        return features, spatial, net.logits(features), net.logits(features, bias=False)

    arrays = [np.asarray(array) for array in jax.jit(outputs)(batch, official)]
    rows = {"golden": slice(0, 4), "torch-fidelity": slice(4, 6), "pytorch-fid": slice(6, 8)}
    return {name: [array[where] for array in arrays] for name, where in rows.items()}


def assert_digest(array: np.ndarray, expected: list[float]):
    """The norm, and the product with the probe, whose numbers are of size 1/sqrt(features), within 1e-4."""
    array = np.asarray(array, np.float64)
    assert np.linalg.norm(array) == pytest.approx(expected[0], rel=1e-4)
    assert np.sum(array * det_array("probe:figures", array.shape)) == pytest.approx(expected[1], abs=1e-4 * expected[0])


def test_features_and_logits_equal_the_reference(case, found, figures):
    features, _, logits, _ = found["golden"]
    expected = case.data["features_of_float_x"]
    error = np.linalg.norm(features - expected) / np.linalg.norm(expected)
    figures("Inception's features of the golden case, relative error", f"{error:.1e}")
    assert_near(features, expected)
    assert_near(logits, case.data["logits"])


def test_all_figures_of_torch_fidelity_come_out(found):
    """From bytes on: its resize and scale, features, both kinds of logits, and sFID's 17 x 17 x 7 features in order."""
    expected = PUBLIC["torch-fidelity"]
    for array, name in zip(found["torch-fidelity"], ("features", "spatial", "logits", "logits_unbiased"), strict=True):
        assert_digest(array, expected[name])
    spatial = found["torch-fidelity"][1]
    assert spatial.shape == (2, 2023)
    np.testing.assert_allclose(spatial[0, :16], expected["spatial_first"], rtol=1e-4, atol=1e-5)


def test_features_of_pytorch_fid_come_out(found):
    assert_digest(found["pytorch-fid"][0], PUBLIC["pytorch-fid"]["features"])


def test_distances_of_few_images_are_those_of_the_public_evaluators(official, figures):
    """FID, and with it rFID and pFID, and sFID, of six images and the same with noise: from bytes to the distance."""
    real, noise = (det_image(f"set of {name}", (6, 3, 32, 32)).transpose(0, 2, 3, 1) for name in ("real", "noise"))
    sets = [np.round((x + 1) * 127.5).astype(np.uint8) for x in (real, 0.7 * real + 0.3 * noise)]
    look = jax.jit(lambda net, image: net(PROTOCOLS["torch-fidelity"].prepare(image)))
    seen = [look(official, image) for image in sets]
    for place, (name, expected) in enumerate(PUBLIC["distances"].items()):
        gaussians = []
        for outputs in seen:
            moments = Moments(outputs[place].shape[1])
            moments.add(outputs[place])
            gaussians.append(moments.gaussian())
        found = frechet_distance(*gaussians)
        error = abs(found / expected["torch-fidelity"] - 1)
        figures(f"{name} of twelve images, difference from torch-fidelity's", f"{error:.1e}")
        assert error < 1e-4
        assert found == pytest.approx(expected["pytorch-fid"], rel=1e-4)


@pytest.mark.parametrize("kind", ["mean", "max", "halving max"])
def test_pools_are_those_of_window_reductions(kind):
    x = jax.random.normal(jax.random.key(0), (2, 7, 9, 3)) - 3  # negative: a border of zeros would show in a maximum
    stride, padding = (2, "VALID") if kind == "halving max" else (1, "SAME")
    window, strides = (1, 3, 3, 1), (1, stride, stride, 1)
    if kind == "mean":
        total, count = (jax.lax.reduce_window(y, 0.0, jax.lax.add, window, strides, padding) for y in (x, x * 0 + 1))
        expected = total / count
    else:
        expected = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, padding)
    np.testing.assert_allclose(inception.pool(x, kind), expected, rtol=1e-5)


def test_files_give_the_same_arrays_and_bad_ones_are_named(case, official, tmp_path):
    path = tmp_path / "inception.pth"
    file.save(str(path), case.state_dict())
    ours, loaded = to_arrays(official), to_arrays(load_inception(str(path), verify=False))
    assert list(ours) == list(loaded)
    for name in ours:
        np.testing.assert_array_equal(ours[name], loaded[name])
    with pytest.raises(InputError, match=r"has SHA-256 \w{8}\.\.\., expected 6726825d\.\.\.: download pt_inception"):
        load_inception(str(path))
    with pytest.raises(InputError, match=r"inception_path='nowhere.pth' is not a file: download pt_inception"):
        load_inception("nowhere.pth")


def test_a_convolution_without_its_statistics_is_named(case):
    tensors = case.state_dict()
    del tensors["Mixed_6d.branch1x1.bn.running_var"]
    with pytest.raises(InputError, match=r"Mixed_6d\.branch1x1"):
        from_torch(tensors)


def test_images_one_by_one_are_those_of_a_batch(official):
    """As a CPU computes the large maps, and as other devices do; float32's rounding of sums of 2,592 terms apart."""
    image = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 91, 92, 3)), jnp.float32)
    found = jax.jit(lambda net, x: (inception.image_by_image(net.large, x), net.large(x)))(official, image)
    alone, together = map(np.asarray, found)
    assert alone.shape == (2, 4, 4, 768)
    assert np.linalg.norm(alone - together) < 1e-5 * np.linalg.norm(together)
    assert np.linalg.norm(alone[0] - alone[1]) > 1e-2 * np.linalg.norm(together)
