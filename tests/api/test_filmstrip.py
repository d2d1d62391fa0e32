"""Images level by level, as pictures and as a film."""

import io

import jax
import numpy as np
import pytest
from PIL import Image

from rqjax.api import measured
from rqjax.api.filmstrip import psnr_by_level
from rqjax.dq.router import NAMES
from rqjax.errors import InputError
from rqjax.quantize import dynamic

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def tokenizer(prior):
    return prior.tokenizer


def test_a_level_costs_its_codes_and_is_as_near_as_its_images(tokenizer):
    strip, codes, levels = tokenizer.filmstrip(PIXELS), tokenizer.encode(PIXELS), tokenizer.model.levels
    assert strip.bits.shape == strip.psnr.shape == (levels, 4)
    if isinstance(codes, dynamic.Codes):
        # a region has one code or four, of log2(size) bits, and one bit says which
        size, coarse, fine = tokenizer.model.config.codebook_size, codes.grain == 0, codes.grain == 1
        of_grains = [np.sum(coarse, (1, 2)), np.sum(coarse, (1, 2)) + 4 * np.sum(fine, (1, 2))]
        expected = np.log2(size) * np.array(of_grains) + coarse[0].size
        assert (strip.names, list(strip.maps)) == (("coarse", "+ fine"), ["grains"])
        assert len(NAMES[2]) == levels
    else:
        each = np.log2(tokenizer.model.quantizer.sizes) * codes[0, ..., 0].size
        expected = np.repeat(np.cumsum(each)[:, None], 4, axis=1)
        assert (strip.names, strip.maps) == (("depth 1", "depth 2", "depth 3"), {})
    np.testing.assert_allclose(strip.bits, expected, rtol=1e-6)
    for level in range(levels):
        images = tokenizer.decode(codes, depth=level + 1).images
        np.testing.assert_array_equal(strip.levels[level], images)
        error = np.mean((np.float64(images) - PIXELS) ** 2, axis=(1, 2, 3)) / 255**2
        np.testing.assert_allclose(strip.psnr[level], -10 * np.log10(error), rtol=1e-5)
    assert repr(strip).count(" dB") == levels
    columns = 1 + len(strip.maps) + levels
    assert Image.open(io.BytesIO(strip._repr_png_())).width == columns * (96 + 6)


def test_equal_images_have_a_finite_psnr():
    np.testing.assert_allclose(psnr_by_level(PIXELS, PIXELS[None]), 100)


def test_codes_come_row_by_row_and_level_by_level(tokenizer, tmp_path):
    codes, levels = tokenizer.encode(PIXELS), tokenizer.model.levels
    film = tokenizer.coarse_to_fine(codes, columns=4)
    rows = jax.tree.leaves(codes)[-1].shape[1]
    assert len(film) == levels * rows
    for level in range(1, levels + 1):
        whole = tokenizer.decode(codes, depth=level).grid(columns=4)
        np.testing.assert_array_equal(film.frames[level * rows - 1], np.asarray(whole))
    film.save(tmp_path / "film.gif")
    saved = Image.open(tmp_path / "film.gif")
    assert saved.size == film.frames.shape[2:0:-1]
    assert (saved.info["duration"], saved.info["loop"]) == (150, 0)
    saved.seek(saved.n_frames - 1)  # equal pictures that follow each other are one
    assert saved.info["duration"] >= 2000
    assert film._repr_html_().startswith('<img src="data:image/gif;base64,')
    with pytest.raises(InputError, match=r"expected a name that ends in one of \.gif"):
        film.save(tmp_path / "film.png")


def test_images_of_any_size_become_the_models(residual):
    tokenizer = residual.tokenizer
    wide = Image.new("RGB", (64, 32), "red")
    wide.paste("white", (8, 0, 56, 32))  # the middle square, and what scaling mixes into it
    out = io.BytesIO()
    wide.save(out, "png")
    for image in (wide, np.asarray(wide), out.getvalue(), np.full((28, 28), 255, np.uint8)):
        np.testing.assert_array_equal(tokenizer.fitted(image), np.full((8, 8, 3), 255, np.uint8))
    for wrong, message in (
        (b"no image", r"the image cannot be read \(.*\): expected a JPEG, PNG, WebP or BMP"),
        (np.zeros((8, 8, 3)), r"the image is float64 of shape \(8, 8, 3\): expected uint8"),
        ("image.png", "the image is a str: expected the bytes of a file"),
        (Image.new("RGB", (1, 1)), "no image to enlarge"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            tokenizer.fitted(wrong)
        assert "\n" not in str(caught.value)


def test_time_and_memory_are_printed(capsys):
    with measured("one sum"):
        jax.jit(lambda x: x + len(PIXELS))(1.0).block_until_ready()
    line = capsys.readouterr().out
    assert line.startswith("one sum: 0.")
    assert "s of it compiling; at most " in line
    assert line.endswith(" GiB of the host\n")
