"""Priors asked for images: the same calls for RQ and DQ."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

import rqjax
from rqjax.errors import InputError
from rqjax.nets.guidance import Guidance
from rqjax.nets.sampling import Draw
from tests.api.conftest import NAMES


def same(a, b) -> bool:
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def rows(codes, which):
    return jax.tree.map(lambda x: x[which], codes)


@contextlib.contextmanager
def nothing_traced():
    """Fails if a program is traced, as each must be before it is compiled."""
    seen = []
    listener = lambda event, _, **__: seen.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert not [event for event in seen if "trace" in event or "compile" in event]


def test_classes_are_named_or_numbered_and_settings_compile_nothing(prior):
    ask = {"labels": ["Bag", "Dress"], "count": 2, "seed": 5, "guidance": 2.0, "progress": False}
    pictures = prior.generate(**ask)
    assert pictures.images.shape == (4, 8, 8, 3)
    assert pictures.images.dtype == np.uint8
    assert (pictures.labels.tolist(), pictures.rows) == ([0, 0, 2, 2], ("Bag", "Dress"))
    assert repr(pictures) == "4 images of 8x8: Bag, Dress"
    with nothing_traced():
        assert same(prior.generate(**ask | {"labels": np.array([0, 2])}).codes, pictures.codes)
        for change in ({"seed": 6}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.9}, {"labels": ["coat", 1]}):
            assert not same(prior.generate(**ask | change).codes, pictures.codes)
        other = Guidance(scale=4.0, schedule="linear", decay=0.5)
        assert not same(prior.generate(**ask | {"guidance": other}).codes, pictures.codes)
    assert same(prior.tokenizer.decode(pictures.codes).images, pictures.images)


def test_what_is_not_said_is_as_in_the_previews_of_the_run(prior, monkeypatch):
    plain, stage = {"guidance": 1.0, "top_k": 0, "top_p": 1.0, "temperature": 1.0}, prior.settings
    drawn = lambda **said: prior.generate(["Bag", "Coat"], count=2, seed=4, progress=False, **said).codes  # noqa: E731
    assert {name: getattr(stage, name) for name in plain} == plain
    assert same(drawn(), drawn(**plain))
    own = {"guidance": 3.0, "top_k": 5, "top_p": 0.9, "temperature": 0.8}
    for name, value in own.items():
        monkeypatch.setattr(stage, name, value)
    assert same(drawn(), drawn(**own))
    assert not same(drawn(), drawn(**plain))
    assert same(drawn(**plain), drawn(**plain))


def test_an_image_is_its_seed_and_place_whatever_the_batch_and_the_devices(prior):
    few = prior.generate("Coat", count=4, seed=1)
    many = prior.generate("Coat", count=6, seed=1)
    assert same(rows(many.codes, slice(4)), few.codes)
    eight = rqjax.load(prior.run.path, devices=jax.local_devices(), batch=8).generate("Coat", count=6, seed=1)
    assert same(eight.codes, many.codes)
    assert same(eight.images, many.images)


def test_all_classes_if_none_is_named(residual):
    pictures = residual.generate(count=2)
    assert pictures.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert pictures.rows == NAMES
    assert pictures.grid().width > pictures.grid(columns=2).width  # the rows' names


def test_each_stream_draws_by_its_own_settings(prior):
    streams = len(prior.config.stage.model.streams)
    greedy = prior.generate("Bag", count=4, temperature=0)
    assert same(prior.generate("Bag", count=4, temperature=[3.0] * streams, top_k=[1] * streams).codes, greedy.codes)


def test_given_codes_stay_and_the_rest_is_drawn(prior):
    four = prior.generate("Bag", count=4, seed=2).codes
    codes = rows(four, slice(2))
    for kept in (prior.tokenizer.keep(codes, rows=1), prior.tokenizer.keep(codes, depth=1)):
        completed = prior.generate("Coat", given=kept, count=2, seed=3).codes
        for known, found in zip(jax.tree.leaves(kept), jax.tree.leaves(completed), strict=True):
            known = np.repeat(known, 2, axis=0)
            np.testing.assert_array_equal(found[known >= 0], known[known >= 0])
        assert not same(rows(completed, slice(0, None, 2)), codes)
        assert not same(rows(completed, slice(0, None, 2)), rows(completed, slice(1, None, 2)))
    whole = prior.generate([0, 1, 2, 0], given=prior.tokenizer.keep(four))
    assert same(whole.codes, four)
    assert whole.labels.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("name", ["text", "dq_text"])
def test_texts_and_nothing_lead_a_prior_too(folders, name):
    one = jax.local_devices()[:1]
    text, free = (rqjax.load(folders[each], devices=one) for each in (name, "free"))
    padded = text.generate(texts=[[1, 2], [6, 5, 4, 3]], count=2)
    assert (padded.labels, padded.rows) == (None, ("text 1", "text 2"))
    assert same(padded.codes, text.generate(texts=np.array([[1, 2, 0, 0], [6, 5, 4, 3]]), count=2).codes)
    said = text.generate(texts=["AB q b", "b"], count=2)
    assert said.rows == ("AB q b", "b")
    assert same(said.codes, text.generate(texts=[[4, 1, 3], [3]], count=2).codes)
    request = free.request(None, None, 4, 0, [Draw()], Guidance())
    assert (request.values.tolist(), request.rows) == ([0] * 4, ())
    for model, ask, message in (
        (text, {}, "this prior is led by texts: pass texts=, in words or as lists of up to 4 ids from 0 to 6"),
        (text, {"texts": ["a bag", [1]]}, "texts have words and a list"),
        (text, {"texts": [[1, 2, 3, 4, 5]]}, "expected lists of up to 4 ids"),
        (text, {"texts": [[1, 7]]}, "7 is out of range"),
        (text, {"labels": 1}, "labels are given, and this prior is led by texts"),
        (free, {"labels": 1}, "labels is 1, and this prior knows no classes"),
        (free, {"texts": [[1]]}, "led by nothing"),
        (free, {"guidance": 2.0}, "guidance is 2.0, and this prior knows no classes"),
        (text, {"texts": [[1]], "guidance": 2.0}, "trained with its text at all times"),
    ):
        with pytest.raises(InputError, match=message):
            model.generate(**ask)


@pytest.mark.parametrize(
    ("ask", "message"),
    {
        "a name": (
            {"labels": "Sock"},
            "labels has 'Sock', which is no class of this prior: there are Bag, Coat, Dress",
        ),
        "an id": ({"labels": [0, 3]}, "labels 3 is out of range: this prior has 3 classes, from 0 to 2"),
        "no id": ({"labels": -1}, "labels -1 is out of range"),
        "a fraction": ({"labels": [1.5]}, "labels have a float: expected names or whole numbers"),
        "no labels": ({"labels": []}, "labels are an empty list"),
        "a caption": ({"texts": "a bag"}, "texts are given, and this prior is led by 3 classes: pass labels="),
        "count 0": ({"count": 0}, "count is 0: expected a whole number from 1"),
        "count -1": ({"count": -1}, "count is -1"),
        "count true": ({"count": True}, "count is True: expected a whole number from 1"),
        "seed": ({"seed": 2**63}, "seed is"),
        "temperature": ({"temperature": -1}, "temperature of .* is -1.0: expected 0 .greedy. or more"),
        "a hot word": ({"temperature": "hot"}, "temperature is 'hot': expected a number"),
        "top_k": ({"top_k": 1.5}, "top_k is 1.5: expected a whole number"),
        "top_p": ({"top_p": 0}, "top_p of .* is 0.0: expected a number above 0"),
        "too many": ({"top_p": [1, 1, 1, 1]}, "top_p has 4 values: give one, or one for each of "),
        "guidance": ({"guidance": float("nan")}, "guidance is nan: expected a number of at least 0"),
    }.values(),
)
def test_bad_input_is_one_line(prior, ask, message):
    with pytest.raises(InputError, match=message) as caught:
        prior.generate(**ask)
    assert "\n" not in str(caught.value)


def test_guidance_needs_a_prior_that_was_trained_for_it(residual, folders):
    unguided = rqjax.load(folders["rq"])
    unguided.config.stage.model = dataclasses.replace(residual.config.stage.model, condition_dropout=0.0)
    with pytest.raises(InputError, match=r"guidance is 2.0, and this prior was trained with its label at all times"):
        unguided.generate("Bag", guidance=2.0)


def test_given_codes_that_cannot_be_completed_are_refused(prior):
    codes = rows(prior.generate("Bag", count=4, temperature=0).codes, slice(2))
    change = lambda function: jax.tree.map(function, codes)  # noqa: E731
    first = change(lambda x: np.where(np.arange(x.size).reshape(x.shape) % x[0].size, x, -1))
    for wrong, message in (
        (first, "no prefix"),
        (change(lambda x: x + 100), "given codes have a 1.., which is out of range: expected -1 to "),
        (change(lambda x: x - 100), "out of range"),
        (change(lambda x: x[:, 1:]), "given codes have shape"),
        (change(lambda x: x * 1.0), "given codes are of float"),
    ):
        with pytest.raises(InputError, match=message):
            prior.generate("Bag", given=wrong)
    kept = prior.tokenizer.keep(codes, rows=1)
    with pytest.raises(InputError, match="2 images without a label: say one for each, or for all"):
        prior.generate(given=kept)
    with pytest.raises(InputError, match="3 labels or texts for given codes of 2 images"):
        prior.generate(["Bag", "Coat", "Dress"], given=kept)


def test_pictures_are_shown_and_saved(residual, tmp_path):
    pictures = residual.generate(["Bag", "Coat"], count=3)
    grid = pictures.grid()
    assert isinstance(grid, Image.Image)
    assert pictures._repr_png_().startswith(b"\x89PNG")
    for _ in range(2):  # a file takes the place of one before it
        pictures.save(tmp_path / "x.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x.png")), np.asarray(grid))
    pictures.save(str(tmp_path / "x.npz"))
    with np.load(tmp_path / "x.npz") as arrays:
        assert np.array_equal(arrays["arr_0"], pictures.images)
        assert arrays["label"].tolist() == [0, 0, 0, 1, 1, 1]
    pictures.save(f"{tmp_path}/folder/")
    names = sorted(path.name for path in (tmp_path / "folder").iterdir())
    assert names[0] == "0_label0.png"
    assert np.array_equal(np.asarray(Image.open(tmp_path / "folder" / names[5])), pictures.images[5])
    for path, message in (
        (tmp_path / "x.gif", "path is .*x.gif': expected a name that ends in"),
        (tmp_path / "folder", "is not empty: choose another folder, or pass overwrite=True"),
    ):
        with pytest.raises(InputError, match=message):
            pictures.save(path)
    with pytest.raises(InputError, match="exists already"):
        pictures.save(tmp_path / "x.png", overwrite=False)
