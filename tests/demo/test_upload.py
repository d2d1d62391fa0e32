"""One's own images: pictures, codes and figures of good files, a line for all others."""

import io
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rqjax.demo import upload
from rqjax.demo.upload import examine, written
from rqjax.quantize.dynamic import Codes


@pytest.fixture
def file(tmp_path):
    """A callable: the path of a file of noise, or of other bytes."""

    def make(name="a.png", content=None, size=(40, 30)):
        pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
        (tmp_path / name).write_bytes(png(pixels) if content is None else content)
        return str(tmp_path / name)

    return make


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png")
    return out.getvalue()


def test_files_are_shown_beside_their_partial_decodes(prior, file):
    paths = [file("a.png"), file("b.png", size=(9, 20))]
    picture, text, line = examine(prior.tokenizer, paths)
    images = np.stack([prior.tokenizer.fitted(pathlib.Path(path).read_bytes()) for path in paths])
    strip = prior.tokenizer.filmstrip(images)
    assert np.array_equal(picture, np.asarray(strip.grid()))
    assert line == repr(strip).replace("\n", "; ")
    assert "bits" in line
    assert "image 2, " in text
    assert "image 3, " not in text


def test_codes_are_tables():
    codes = np.arange(12).reshape(1, 2, 2, 3)
    assert written(codes, ["depth 1", "depth 2", "depth 3"]) == (
        "image 1, depth 1\n0 3\n6 9\n\nimage 1, depth 2\n 1  4\n 7 10\n\nimage 1, depth 3\n 2  5\n 8 11"
    )


def test_a_code_of_a_coarse_region_stands_once():
    grain = np.array([[[0, 1], [1, 0]]])
    codes = np.array([[[5, 5, 1, 2], [5, 5, 3, 4], [6, 7, 10, 10], [8, 9, 10, 10]]])
    found = jax.tree.map(np.asarray, Codes(codes=jnp.asarray(codes), grain=jnp.asarray(grain)))
    text = written(found, ("coarse", "+ fine"))
    assert text == (
        "image 1, grains (0 coarse, 1 fine)\n0 1\n1 0\n\n"
        "image 1, codes\n 5  .  1  2\n .  .  3  4\n 6  7 10  .\n 8  9  .  ."
    )


@pytest.mark.parametrize("content", [b"", b"no image", png(np.zeros((9, 9, 3), np.uint8))[:40], b"GIF89a" + bytes(99)])
def test_a_damaged_file_is_a_line_with_its_name(prior, file, content):
    picture, text, line = examine(prior.tokenizer, [file("good.png"), file("x\n.png", content)])
    assert (picture, text) == (None, "")
    assert line.startswith("x\\n.png: the image cannot be read (")
    assert "\n" not in line


def test_too_many_too_large_and_none_are_refused(prior, file, monkeypatch):
    assert examine(prior.tokenizer, None)[2] == "no file has come: choose an image"
    assert examine(prior.tokenizer, [file()] * 9)[2] == "9 files: choose at most 8 at once"
    assert examine(prior.tokenizer, ["gone.png"])[2] == "gone.png: No such file or directory"
    monkeypatch.setattr(upload, "BYTES", 100)
    assert "a.png: it has more than" in examine(prior.tokenizer, [file()])[2]
