"""What the button does: levels in their order, and a line for what cannot be drawn."""

import jax
import numpy as np
import pytest

import rqjax
from rqjax.demo.drawing import draw
from rqjax.demo.failures import in_one_line
from rqjax.errors import InputError
from tests.api.test_generate import nothing_traced

FORM = {"said": 0, "count": 4, "temperature": 1, "top_k": 0, "top_p": 1, "guidance": 1, "seed": 7}


def test_the_picture_comes_level_by_level_and_ends_as_the_images(prior):
    shown = list(draw(prior, **FORM))
    assert len(shown) == prior.tokenizer.model.levels
    assert [len(film) for _, film, _ in shown] == list(range(1, len(shown) + 1))
    made = prior.generate(labels=0, count=4, seed=7)
    assert np.array_equal(shown[-1][0], np.asarray(made.grid()))
    first = prior.tokenizer.decode(made.codes, depth=1)
    assert np.array_equal(shown[0][0], np.asarray(first.grid()))
    assert not np.array_equal(shown[0][0], shown[-1][0])
    assert shown[0][2].startswith(f"level 1 of {len(shown)} (")


def test_other_settings_compile_nothing(prior):
    list(draw(prior, **FORM | {"guidance": 2}))
    with nothing_traced():
        for change in ({"said": 2}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.5}, {"guidance": 3}, {"seed": 8}):
            list(draw(prior, **FORM | {"guidance": 2} | change))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"seed": None}, "seed is None: expected a whole number"),
        ({"top_k": -1}, "top_k is -1: expected a whole number from 0"),
        ({"temperature": float("nan")}, "temperature of "),
        ({"count": 0}, "count is 0: expected a whole number from 1"),
        ({"said": "Sock"}, "labels has 'Sock', which is no class of this prior"),
        ({"said": 3}, "labels 3 is out of range"),
        ({"guidance": -1}, "guidance is -1.0"),
    ],
)
def test_what_cannot_be_drawn_is_a_line(prior, change, line):
    [(picture, film, told)] = draw(prior, **FORM | change)
    assert (picture, film) == (None, [])
    assert told.startswith(line)
    assert "\n" not in told


def test_captions_lead_a_prior_of_texts(folders):
    text = rqjax.load(folders["text"], devices=jax.local_devices()[:1], batch=4)
    *_, (picture, _, _) = draw(text, **FORM | {"said": "ab b"})
    assert np.array_equal(picture, np.asarray(text.generate(texts=["ab b"], count=4, seed=7).grid()))
    text.run.__dict__["vocabulary"] = None  # as of a model that was imported without one
    *_, (numbers, _, _) = draw(text, **FORM | {"said": "4 3"})
    assert np.array_equal(numbers, picture)
    [(_, _, told)] = draw(text, **FORM | {"said": "a bag"})
    assert "this prior keeps no vocabulary" in told


def test_a_prior_of_nothing_takes_no_class(folders):
    free = rqjax.load(folders["free"], devices=jax.local_devices()[:1], batch=4)
    *_, (picture, _, _) = draw(free, **FORM | {"said": None})
    assert np.array_equal(picture, np.asarray(free.generate(count=4, seed=7).grid()))


def test_a_full_memory_is_a_line_and_a_mistake_of_ours_is_not():
    assert in_one_line(InputError("x is 1: expected 2")) == "x is 1: expected 2"
    assert in_one_line(RuntimeError("RESOURCE_EXHAUSTED: Out of memory\n at 3")).startswith("not enough memory")
    with pytest.raises(ZeroDivisionError):
        in_one_line(ZeroDivisionError())
