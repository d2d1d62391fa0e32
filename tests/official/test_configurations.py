"""Configurations that no published model has, of three families, by the official figures."""

import json
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.dq.routing import route
from rqjax.official.convert import import_model, keys
from rqjax.official.documents import model_config
from rqjax.official.thresholds import Entropy
from rqjax.quantize.dynamic import Codes
from tests.conftest import digest
from tests.golden.deterministic import det_array, det_image

FILE = pathlib.Path(__file__).parents[1] / "golden" / "configurations" / "figures.json"
CASES = json.loads(FILE.read_text())
THRESHOLD = 1.2
"""The entropy above which a region is fine in these figures, whatever the percentile."""
FAST = ("rqvae of one code", "dqvae dual")
"""Tokenizers that are compared in each run of the tests: to compile another takes seconds."""


def of(family: str):
    slow = lambda name: family != "dqtransformer" and not name.startswith(FAST)  # noqa: E731
    names = [name for name in CASES if name.split()[0] == family]
    return [pytest.param(name, marks=pytest.mark.slow) if slow(name) else name for name in names]


def config_of(name: str, folder: pathlib.Path):
    (folder / "thresholds.json").write_text(json.dumps({str(i): THRESHOLD for i in range(1, 100)}))
    return model_config(CASES[name]["config"], Entropy("-1_1", folder))


def made(name: str, folder: pathlib.Path):
    """Our model of a case, with the weights of the rule for its keys."""
    config = config_of(name, folder)
    shared = CASES[name]["config"].get("hparams", {}).get("shared_codebook")
    state_dict = {}
    for key, shape in held_keys(config).items():
        rule = ".".join(["quantizer.codebooks.0", *key.split(".")[3:]]) if shared and ".codebooks." in key else key
        scale = 0.02 * np.prod(shape[1:]) ** 0.5 if key == "pos_emb" else 1
        state_dict[key] = det_array(rule, shape) * np.float32(scale)
    return jax.tree.map(jnp.asarray, import_model(state_dict, config))


def held_keys(config) -> dict[str, list[int]]:
    """Keys and shapes of a state dict, but for the masks of a prior, which are no weights."""
    found = {key.removeprefix("transformer."): list(shape) for key, shape in keys(config).items()}
    return {key: shape for key, shape in found.items() if not key.endswith("attn.mask")}


def image_of(name: str, side: int):
    image = det_image(name, (2, 3, side, side))
    if "entropy" in name:
        image[..., : side // 2] = np.round(image[..., : side // 2])  # or all regions have much to say
    return jnp.asarray(image.transpose(0, 2, 3, 1))


def assert_digest(key: str, ours, expected: list[float]) -> None:
    assert np.abs(digest(key, np.asarray(ours)) - expected).max() <= 1e-4 * expected[0]


@pytest.mark.parametrize("name", CASES)
def test_a_file_describes_the_official_arrays(name, tmp_path):
    found = held_keys(config_of(name, tmp_path))
    assert zlib.crc32(json.dumps(found, sort_keys=True).encode()) == CASES[name]["keys"]


@pytest.mark.parametrize("name", of("rqvae"))
def test_rqvae(name, tmp_path):
    model, expected = made(name, tmp_path), CASES[name]

    @jax.jit
    def run(model, image):
        latent = model.latent(image)
        found = model.quantizer.encode(model._fold(latent), jax.random.key(0), False)[0]
        return latent, found.codes, found.loss, model.network.image(model._unfold(found.quantized))

    latent, codes, loss, image = run(model, image_of(name, model.config.resolution))
    np.testing.assert_array_equal(codes, expected["codes"])
    np.testing.assert_allclose(loss, expected["loss"] * model.config.quantizer.commitment_weight, rtol=1e-4)
    assert_digest("latent", latent, expected["latent"])
    assert_digest("image", image.transpose(0, 3, 1, 2), expected["image"])


@pytest.mark.parametrize("name", of("dqvae"))
def test_dqvae(name, tmp_path):
    model, expected = made(name, tmp_path), CASES[name]

    @jax.jit
    def run(model, image):
        routed = route(model.config.routing, model.network.encoder, image, None)
        found = model._quantize(routed.merged, routed.mask)
        latent = model.network.quant_conv(routed.merged)
        return routed.grain, latent, found.codes, found.loss, model.network.image(found.quantized)

    grain, latent, codes, loss, image = run(model, image_of(name, model.config.resolution))
    np.testing.assert_array_equal(grain, expected["grain"])
    np.testing.assert_array_equal(codes, expected["codes"])
    np.testing.assert_allclose(loss, expected["loss"], rtol=1e-4)
    assert_digest("latent", latent, expected["latent"])
    assert_digest("image", image.transpose(0, 3, 1, 2), expected["image"])


@pytest.mark.parametrize("name", of("dqtransformer"))
def test_dqtransformer(name, tmp_path):
    model = made(name, tmp_path)

    @jax.jit
    def run(model, codes, labels):
        rows = model.rows(codes, labels)
        positions, contents = model.network(rows.tokens, rows.image)
        return model.network.position_head(positions), model.network.content_head(contents), rows.filled.sum(1)

    images = CASES[name]["images"]
    codes, grain, labels = (
        jnp.asarray([image[part] for image in images], jnp.int32) for part in ("codes", "grain", "label")
    )
    positions, contents, lengths = run(model, Codes(codes=codes, grain=grain), labels)
    for i, image in enumerate(images):
        own = np.s_[i : i + 1, : int(lengths[i]) - 1]  # nothing follows the last token
        assert_digest("position", positions[own], image["position"])
        assert_digest("content", contents[own], image["content"])
