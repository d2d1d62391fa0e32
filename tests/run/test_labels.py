"""Classes by name, from the data to the flags of `sample`."""

import json

import numpy as np
import pytest

from rqjax.errors import InputError
from rqjax.nets.condition import ClassCondition, NoCondition, TextCondition
from rqjax.run.config import load_file, to_dict
from rqjax.run.dataset import CLASSES, Dataset, class_names, write_class_names
from rqjax.run.directory import Run
from rqjax.run.labels import chosen
from rqjax.store import model_folder

NAMES = ("Ankle boot", "Shirt", "hat", "shoes", "7", "SHIRT")


def test_all_classes_if_none_is_named():
    assert chosen([], ClassCondition(3), ()) == [0, 1, 2]
    assert chosen([], NoCondition(), ()) == [0]
    with pytest.raises(InputError, match="this prior is led by a text"):
        chosen([], TextCondition(16384, 32), ())
    with pytest.raises(InputError, match="--label is 3, and this prior knows no classes: leave it out"):
        chosen(["3"], NoCondition(), ())


def test_names_come_before_ids_and_their_case_matters_only_where_it_must():
    words = ["shoes", " 3", "Shirt", "SHIRT", "HAT", "ankle boot", "7", "0"]
    assert chosen(words, ClassCondition(6), NAMES) == [3, 3, 1, 5, 2, 0, 4, 0]


@pytest.mark.parametrize(
    ("word", "names", "message"),
    [
        ("shoe", NAMES, "'shoe', which is no class of this prior: did you mean shoes?"),
        ("shirt", NAMES, "did you mean Shirt or SHIRT?"),
        ("zebra", NAMES, "there are Ankle boot, Shirt, hat, shoes, 7, SHIRT"),
        ("", NAMES, "there are Ankle boot"),
        ("1.5", (), "--label has '1.5': expected a whole number, since this prior keeps no names"),
        ("6", NAMES, "--label 6 is out of range: this prior has 6 classes, from 0 to 5"),
        ("-1", NAMES, "--label -1 is out of range"),
        (str(2**40), NAMES, "is out of range"),
        ("9" * 5000, NAMES, "is out of range"),
    ],
)
def test_other_words_are_one_line(word, names, message):
    with pytest.raises(InputError) as caught:
        chosen([word], ClassCondition(6), names)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_stay_with_a_run_and_with_what_is_made_of_it(tmp_path):
    config = to_dict(load_file("quickstart"))
    model_folder.save(tmp_path / "a", config, {"model": {"x": np.zeros(1)}}, "")
    assert Run.open(tmp_path / "a").classes == ()
    Dataset(12, NAMES).write(tmp_path / "a")
    run = Run.open(tmp_path / "a")
    assert run.classes == NAMES
    run.write(tmp_path / "b", {"x": np.zeros(1)})
    assert Run.open(tmp_path / "b").classes == NAMES
    assert json.loads((tmp_path / "b" / CLASSES).read_text()) == list(NAMES)
    write_class_names(tmp_path, ())
    assert class_names(tmp_path) == ()
    (tmp_path / CLASSES).write_text("3")
    with pytest.raises(InputError, match="expected a list of names"):
        class_names(tmp_path)
