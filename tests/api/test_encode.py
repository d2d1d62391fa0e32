"""Tokenizers asked for codes and images, and all that a model knows of itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import rqjax
from rqjax.api.batches import Batches
from rqjax.api.inputs import image_array
from rqjax.data.images import to_float, to_uint8
from rqjax.errors import InputError
from tests.api.conftest import NAMES

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def tokenizer(prior):
    return prior.tokenizer


def same(a, b) -> bool:
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def test_images_of_every_kind_have_the_same_codes(tokenizer):
    codes = tokenizer.encode(PIXELS)
    assert all(isinstance(x, np.ndarray) and len(x) == 5 for x in jax.tree.leaves(codes))
    assert same(codes, jax.jit(lambda model, x: model.encode(x))(tokenizer.model, to_float(PIXELS)))
    floats, pils = np.asarray(to_float(PIXELS)), [Image.fromarray(image) for image in PIXELS]
    for images in (floats, floats.astype(np.float64), jnp.asarray(PIXELS), list(PIXELS), floats.tolist(), pils):
        assert same(tokenizer.encode(images), codes)
    for one, expected in ((pils[0], PIXELS[:1]), (PIXELS[0], PIXELS[:1]), (floats[0], floats[:1])):
        np.testing.assert_array_equal(image_array(one, 8), expected)


def test_codes_become_images_by_depth(tokenizer):
    codes, model = tokenizer.encode(PIXELS), tokenizer.model
    whole = tokenizer.decode(codes)
    expected = jax.jit(lambda model, codes: to_uint8(model.decode_codes(codes)))(model, codes)
    assert same(whole.images, expected)
    assert same(tokenizer.decode(jax.tree.map(lambda x: x.tolist(), codes)).images, whole.images)
    assert same(tokenizer.decode(codes, depth=model.levels).images, whole.images)
    first = tokenizer.decode(codes, depth=1)
    assert not same(first.images, whole.images)
    if model.levels == 3:  # residual: as the model itself shows it
        progressive = jax.jit(lambda model, x: to_uint8(model.progressive(x)))(model, to_float(PIXELS))
        assert np.abs(np.int32(first.images) - progressive[0]).max() <= 1


def test_the_way_from_one_image_to_another_has_both_ends(tokenizer):
    between = tokenizer.interpolate(PIXELS[:4], PIXELS[1:], steps=3)
    assert (between.images.shape, between.rows, between.codes) == ((12, 8, 8, 3), ("1", "2", "3", "4"), None)
    whole = np.int32(tokenizer.decode(tokenizer.encode(PIXELS)).images)
    ends = np.int32(between.images)
    assert np.abs(ends[::3] - whole[:4]).max() <= 1  # a byte's own rounding
    assert np.abs(ends[2::3] - whole[1:]).max() <= 1
    assert not np.array_equal(between.images[1], between.images[0])
    with pytest.raises(InputError, match="2 images and 1: expected as many"):
        tokenizer.interpolate(PIXELS[:2], PIXELS[0])


def test_batches_of_any_size_are_of_few_shapes():
    batches = Batches.over(jax.local_devices()[:1], most=64)
    sizes = {batches.size(images) for images in range(1, 1000)}
    assert sorted(sizes) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert all(batches.size(images) >= images for images in range(1, 65))
    assert {Batches.over(most=20).size(images) for images in (1, 9, 30)} == {8, 16, 24}
    seen = []
    double = lambda x: (seen.append(x.shape[0]), 2 * x)[1]  # noqa: E731
    np.testing.assert_array_equal(Batches.over(most=8).run(double, np.arange(19)), 2 * np.arange(19))
    assert seen == [8, 8, 8]


def test_a_model_knows_what_it_is(prior, folders):
    assert (prior.resolution, prior.tokenizer.resolution, prior.classes) == (8, 8, NAMES)
    assert prior.licence == prior.tokenizer.licence == "terms"
    assert prior.config.stage.model.condition.choices == 3
    for model in (prior, prior.tokenizer):
        lines = repr(model).splitlines()
        assert len(lines) == 3
        assert type(model.model).__name__ in lines[0]
        assert "8x8 images" in lines[1]
        assert lines[2].endswith("terms")
    assert "3 classes: Bag, Coat, Dress; takes guidance" in repr(prior)


@pytest.mark.parametrize(
    ("images", "message"),
    {
        "size": (np.zeros((2, 8, 9, 3), np.uint8), r"shape \(2, 8, 9, 3\): this model takes 8x8 pixels in colour"),
        "PIL size": (Image.new("RGB", (16, 8)), r"use image.resize\(\(8, 8\)\)"),
        "grey": (np.zeros((2, 8, 8), np.uint8), "in colour"),
        "sizes": ([np.zeros((8, 8, 3)), np.zeros((4, 8, 3))], "images make no array"),
        "none": ([], "images have shape"),
        "whole numbers": (np.zeros((1, 8, 8, 3), np.int64), "images are of int64: expected uint8 in 0..255, or floats"),
        "truth": (np.zeros((1, 8, 8, 3), bool), "images are of bool"),
        "NaN": (np.full((1, 8, 8, 3), np.nan), "NaN or infinite"),
        "infinite": (np.full((1, 8, 8, 3), np.inf, np.float16), "NaN or infinite"),
        "range": (
            np.full((1, 8, 8, 3), 255.0),
            "pixels from 255 to 255: expected floats in .-1, 1., or bytes as uint8",
        ),
        "a name": ("image.png", "images are a str: expected arrays"),
        "nothing": (None, "images are a NoneType"),
    }.values(),
)
def test_other_images_are_refused(residual, images, message):
    with pytest.raises(InputError, match=message) as caught:
        residual.tokenizer.encode(images)
    assert "\n" not in str(caught.value)


def test_other_codes_and_depths_are_refused(residual):
    tokenizer = residual.tokenizer
    codes = np.zeros((2, 4, 4, 3), int)
    for wrong, message in (
        (codes[..., :2], r"codes have shape \(2, 4, 4, 2\): this model has codes of shape \(n, 4, 4, 3\)"),
        (codes[0], "codes have shape"),
        (codes - 1, "codes have a -1, which is out of range: expected 0 to 15"),
        (codes + 16, "codes have a 16, which is out of range"),
        (codes * 1.0, "codes are of float64: expected whole numbers"),
    ):
        with pytest.raises(InputError, match=message):
            tokenizer.decode(wrong)
    for depth in (0, 4):
        with pytest.raises(InputError, match=f"depth is {depth}: expected a whole number"):
            tokenizer.decode(codes, depth=depth)
    with pytest.raises(InputError, match="rows is 5: expected a whole number from 0 to 4"):
        tokenizer.keep(codes, rows=5)


def test_dynamic_codes_come_with_their_grains(folders):
    tokenizer = rqjax.load(folders["dq"]).tokenizer
    with pytest.raises(InputError, match="codes are a ndarray: expected Codes, as encode"):
        tokenizer.decode(np.zeros((1, 8, 8), int))
