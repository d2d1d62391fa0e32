"""Rejection sampling: more images are drawn, and those stay that a scorer thinks most of, as many of each class."""

import jax
import numpy as np
import pytest

import rqjax
from rqjax.api import request as requests
from rqjax.api import shards
from rqjax.api.rejection import Rejection, best
from rqjax.api.request import Request
from rqjax.errors import InputError
from rqjax.nets.classifier import ClassifierConfig
from rqjax.nets.guidance import Guidance
from rqjax.nets.sampling import Draw
from rqjax.optim import OptimizerConfig
from rqjax.stages.classify import ClassifyConfig
from tests.api.conftest import made, write
from tests.api.test_shards import contents


def brightness(images, values):
    return images.mean((1, 2, 3))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder, config = tmp_path_factory.mktemp("judge"), ClassifierConfig(width=8, classes=3)
    write(folder, ClassifyConfig(model=config, optimizer=OptimizerConfig()), made(config))
    return rqjax.load(folder, devices=jax.local_devices()[:1], batch=4)


def test_the_best_of_each_group_stay_in_order():
    scores, groups = [1.0, 5.0, 3.0, 9.0, 5.0, 2.0], np.array([0, 0, 0, 1, 0, 1])
    assert best(scores, groups, np.array([1, 0, 0])).tolist() == [3, 1, 4]
    assert best(scores, groups, np.array([0, 1, 1, 1])).tolist() == [1, 3, 5]


@pytest.mark.parametrize(
    ("acceptance", "drawn"), [(1.0, [3, 2]), (0.5, [6, 4]), (0.1, [30, 20]), (0.7, [5, 3]), (0.05, [60, 40])]
)
def test_each_class_is_drawn_as_often_as_the_acceptance_says(acceptance, drawn):
    places = Rejection(brightness, acceptance).candidates(np.array([0, 0, 0, 1, 1]))
    assert places.tolist() == [0] * drawn[0] + [3] * drawn[1]


def test_the_best_of_all_that_generate_would_draw_stay(prior):
    many = prior.generate(["Bag", "Dress"], count=4, seed=3)
    few = prior.generate(["Bag", "Dress"], count=1, seed=3, scorer=brightness, acceptance=0.25)
    score = many.images.reshape(2, 4, -1).mean(-1)
    places = score.argmax(1) + np.array([0, 4])
    assert np.array_equal(few.images, many.images[places])
    for a, b in zip(jax.tree.leaves(few.codes), jax.tree.leaves(many.codes), strict=True):
        assert np.array_equal(a, b[places])
    assert few.labels.tolist() == [0, 2]
    np.testing.assert_allclose(few.scores, score.max(1))
    assert repr(few) == "2 images of 8x8, the best of 8 drawn: Bag, Dress"


def test_parts_choose_what_all_at_once_would(residual, monkeypatch):
    ask = {"labels": [0, 1], "count": 2, "seed": 1, "scorer": brightness}
    whole = residual.generate(**ask)
    monkeypatch.setattr(requests, "PART", 4)
    parts = residual.generate(**ask)
    assert np.array_equal(parts.images, whole.images)
    assert (len(parts), parts.drawn) == (4, 16)


def test_a_classifier_judges_by_the_class_that_was_asked_for(residual, classifier):
    pictures = residual.generate([2, 0], count=1, scorer=classifier)
    log = classifier.log_probabilities(pictures.images)
    np.testing.assert_allclose(np.exp(log).sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(pictures.scores, log[[0, 1], [2, 0]])
    assert classifier.classify(pictures.images).tolist() == log.argmax(1).tolist()


def test_completions_are_chosen_for_each_image(residual):
    codes = residual.generate("Bag", count=2, seed=2).codes
    kept = residual.tokenizer.keep(codes, rows=2)
    found = residual.generate("Bag", given=kept, scorer=brightness, acceptance=0.5)
    assert np.array_equal(found.codes[:, :2], codes[:, :2])
    assert found.drawn == 4


def test_shards_hold_whole_rows_and_draw_each_candidate_once(monkeypatch):
    monkeypatch.setattr(shards, "IMAGES", 7)
    values = np.repeat([4, 5, 6], 3)
    rejection = Rejection(brightness, 0.5)
    ask = Request(values, ("a", "b", "c"), [Draw()], Guidance(), 0, None, True, np.repeat(range(3), 3), rejection)
    parts = shards._parts(ask)
    assert [part.values.tolist() for part in parts] == [[4, 4, 4, 5, 5, 5], [6, 6, 6]]
    assert [(part.first, len(part.candidates)) for part in parts] == [(0, 12), (12, 6)]
    monkeypatch.setattr(shards, "IMAGES", 2)
    assert [part.groups.tolist() for part in shards._parts(ask)] == [[0, 0], [0, 1], [1, 1], [2, 2], [2]]


def test_shards_say_how_many_were_drawn_and_by_whom_they_were_chosen(residual, classifier, tmp_path):
    def draw(acceptance):
        chosen = {"scorer": classifier, "acceptance": acceptance}
        ask = residual.request([0, 1], None, 2, 0, [Draw()] * 3, Guidance(), **chosen)
        said = []
        shards.Shards.checked(f"{tmp_path}/a/", residual, ask, overwrite=False).draw(residual, ask, said.append)
        return said

    assert draw(0.5) == [f"{tmp_path}/a/shard_00000.npz: 4 of 4 images, the best of 8 drawn"]
    shard = contents(tmp_path / "a")["shard_00000.npz"]
    assert shard["label"].tolist() == [0, 0, 1, 1]
    scores = classifier(shard["arr_0"], shard["label"]).reshape(2, 2)
    assert (scores[:, 0] >= scores[:, 1]).all()
    assert draw(0.5) == []
    with pytest.raises(InputError, match=r"acceptance is 0.25 and was 0.5"):
        draw(0.25)


def test_scorers_that_cannot_judge_are_refused(residual, classifier, folders):
    def refused(message, model=residual, **ask):
        with pytest.raises(InputError, match=message):
            model.generate(**ask)

    refused("acceptance is 0.5, and there is no scorer", acceptance=0.5)
    refused("acceptance is 0.0: expected the share", scorer=brightness, acceptance=0.0)
    refused("the scorer is a str: expected a classifier", scorer="runs/a")
    refused("the scorer is a LoadedTokenizer: expected a class", scorer=residual.tokenizer)
    refused("the scorer gave float64 of shape .* for 4 images", scorer=lambda x, _: np.ones(3), count=1, labels=0)
    refused("the scorer gave NaN", scorer=lambda x, _: np.full(len(x), np.nan), labels=0)
    text = rqjax.load(folders["text"])
    refused("this prior knows no classes", text, texts=[[1]], scorer=classifier)
    classifier.run.config.data.size = 16
    try:
        refused("was trained on images of 16 pixels, and this prior's have 8", scorer=classifier)
    finally:
        classifier.run.config.data.size = 8
