import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rqjax.errors import InputError
from rqjax.nets.clip import END, START, Sizes, prepared, token_rows
from rqjax.store.safetensor_file import save_safetensors
from rqjax.torchfile import clip
from rqjax.torchfile.clip import from_torch, load_clip
from tests.golden.deterministic import det_array, det_image

PUBLIC = json.loads((pathlib.Path(__file__).parent.parent / "golden/metrics/clip/figures.json").read_text())
SMALL = Sizes(**PUBLIC["small"])
IMAGE = det_image("clip", (3, 3, 224, 224)).transpose(0, 2, 3, 1)


@pytest.fixture(scope="module")
def state_dict():
    return {key: np.asarray(det_array(key, tuple(shape))) for key, shape in PUBLIC["small_shapes"].items()}


def test_vectors_and_cosines_are_those_of_the_public_implementation(state_dict, figures):
    """Of texts of unlike lengths: what stands behind the end of one changes nothing."""
    net = from_torch(state_dict, SMALL)
    ids = jnp.asarray(PUBLIC["ids"])
    image, text, cosines = jax.jit(lambda net, x, ids: (net.image(x), net.text(ids), net(x, ids)))(net, IMAGE, ids)
    for name, found in {"image": image, "text": text}.items():
        expected = np.asarray(PUBLIC[name])
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        figures(f"CLIP's vectors, {name}, relative error", f"{error:.1e}")
        assert error < 1e-4
    np.testing.assert_allclose(cosines, PUBLIC["cosines"], atol=1e-4)
    assert np.ptp(PUBLIC["cosines"]) > 0.05  # they differ by much more than that


def test_the_published_file_has_every_name_and_shape_that_is_read():
    known = {entry.key: entry.shape for entry in clip.entries()}
    published = {key: tuple(shape) for key, shape in PUBLIC["published_shapes"].items()}
    assert known == {key: shape for key, shape in published.items() if key not in clip.UNUSED}
    assert sum(int(np.prod(shape)) for shape in published.values()) == 151_277_313


def test_files_are_read_and_others_are_refused_in_one_line(state_dict, tmp_path, monkeypatch):
    monkeypatch.setattr(clip, "shapes", lambda sizes=None, dtype=jnp.float32, of=clip.shapes: of(SMALL, dtype))
    path = tmp_path / "model.safetensors"
    save_safetensors(path, state_dict)
    net = load_clip(str(path))
    np.testing.assert_array_equal(
        net.text.embed.embedding[...], state_dict["text_model.embeddings.token_embedding.weight"]
    )
    del state_dict["vision_model.pre_layrnorm.weight"]
    save_safetensors(path, state_dict)
    with pytest.raises(InputError, match=r"vision_model\.pre_layrnorm\.weight"):
        load_clip(str(path))
    (tmp_path / "ViT-B-32.pt").write_bytes(b"PK")
    with pytest.raises(
        InputError, match=r"OpenAI's \.pt files are TorchScript programs.*: download model\.safetensors"
    ):
        load_clip(str(tmp_path / "ViT-B-32.pt"))
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"has SHA-256 \w{8}\.\.\., expected a6308213\.\.\.: download"):
        load_clip(str(tmp_path / "pytorch_model.bin"))
    with pytest.raises(InputError, match="clip_path='nowhere' is not a file: download"):
        load_clip("nowhere")


def test_images_are_scaled_and_cut_as_it_was_trained():
    """A square one is Pillow's; of a wide one the middle stays; each channel has its own scale."""
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    expected = np.asarray(Image.fromarray(image[0]).resize((224, 224), Image.Resampling.BICUBIC))
    back = prepared(image)[0] * [0.26862954, 0.26130258, 0.27577711] + [0.48145466, 0.4578275, 0.40821073]
    np.testing.assert_array_equal(np.round(back * 255), expected)
    wide = np.zeros((1, 224, 448, 3), np.uint8)
    wide[:, :, 112:336] = 255
    assert (prepared(wide) > 1).all()
    assert prepared(image[:0]).shape == (0, 224, 224, 3)


def test_rows_of_tokens_have_a_start_and_an_end():
    rows = token_rows([[], [5, 6], list(range(100))])
    assert rows[0].tolist() == [START, *[END] * 76]
    assert rows[1, :5].tolist() == [START, 5, 6, END, END]
    assert rows[2].tolist() == [START, *range(75), END]
