import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rqjax.metrics import PROTOCOLS, equal_parts, inception_score, resized
from tests.golden.deterministic import det_array, det_image

PUBLIC = json.loads((pathlib.Path(__file__).parent.parent / "golden/metrics/public/figures.json").read_text())
SHAPES = {"images": (2, 3, 48, 64), "large": (2, 3, 320, 336)}
NAMES = {"tf1": "tf1", "half_pixel": "half_pixel", "bicubic": "clean"}


def as_bytes(name: str) -> np.ndarray:
    image = det_image(name, SHAPES[name])
    return np.round((image + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("name", SHAPES)
def test_resizes_are_those_of_the_public_code(name, kind):
    """By digests in float64: larger and smaller images, wider than high."""
    found = np.asarray(resized(as_bytes(name), kind), np.float64)
    norm, probed = PUBLIC["resizes"][name][NAMES[kind]]
    assert np.linalg.norm(found) == pytest.approx(norm, rel=1e-6)
    # the probe's numbers are of size 1/sqrt(299 * 299 * 3), and pixels of size 100: a pixel off by 0.01 would show
    assert np.sum(found * det_array("probe:figures", found.shape)) == pytest.approx(probed, abs=2e-3)


def test_bicubic_is_pillows_pixel_by_pixel():
    image = as_bytes("large")[:1]
    planes = [Image.fromarray(image[0, ..., c].astype(np.float32)).resize((299, 299), Image.BICUBIC) for c in range(3)]
    expected = np.clip(np.stack([np.asarray(plane) for plane in planes], -1), 0, 255)
    np.testing.assert_allclose(resized(image, "bicubic")[0], expected, atol=2e-4)


def test_pixels_are_scaled_as_each_evaluator_does():
    white, black = (np.full((1, 2, 2, 3), value, np.uint8) for value in (255, 0))
    for name, high, low in (("adm", 127 / 128, -1), ("clean-fid", 127 / 128, -1), ("pytorch-fid", 1, -1)):
        np.testing.assert_allclose(PROTOCOLS[name].prepare(white), high, atol=1e-6)
        np.testing.assert_allclose(PROTOCOLS[name].prepare(black), low, atol=1e-6)


def test_scores_are_taken_in_parts():
    logits = np.random.default_rng(0).standard_normal((5003, 4))
    adm, fidelity = (PROTOCOLS[name].score for name in ("adm", "torch-fidelity"))
    assert adm is not None
    assert fidelity is not None
    assert adm.of(logits) == inception_score(logits, [0, 5000, 5003])
    assert fidelity.of(jnp.asarray(logits)) == inception_score(jnp.asarray(logits), equal_parts(5003, 10), seed=2020)
