"""The vocabulary of a run: read once, kept with it, and asked for by everything that takes captions."""

import dataclasses

import numpy as np
import pytest

from rqjax.api.conditions import values_of
from rqjax.data.vocabulary import learn
from rqjax.errors import InputError
from rqjax.nets.condition import ClassCondition, TextCondition
from rqjax.run import words
from rqjax.run.config import load_file
from rqjax.run.dataset import Dataset
from rqjax.run.start import claimed

VOCABULARY, OTHER = learn(["a red apple", "a green apple"], 100), learn(["a blue car"], 100)
DATA = Dataset(12, ("images",))


def config(folder, **model):
    made = load_file("emoji", "rqtransformer")
    words.write(folder, VOCABULARY.files())
    made.data.vocabulary = str(folder / words.FOLDER)
    made.stage.model = dataclasses.replace(made.stage.model, **model)
    return made


def test_a_run_reads_its_vocabulary_and_only_one_that_its_model_has_room_for(tmp_path):
    made = config(tmp_path)
    assert words.of(made) == VOCABULARY
    assert words.of(load_file("quickstart", "rqtransformer")) is None
    with pytest.raises(InputError, match=rf"has {len(VOCABULARY)} tokens, and stage.model.text_vocab is 8: raise it"):
        words.of(config(tmp_path, text_vocab=8))
    made.data.text_length = 4
    with pytest.raises(InputError, match=r"data.text_length is 4 and stage.model.text_length is 16: make them equal"):
        made.check()
    made.data.text_length, made.data.vocabulary = 16, ""
    with pytest.raises(InputError, match=r"data.text_length=16 without data.vocabulary"):
        made.check()
    made.data.text_length = 0
    with pytest.raises(InputError, match=r"reads the field 'text' of a batch, and data.name=captions gives image"):
        made.check()


def test_a_run_keeps_it_and_goes_on_with_no_other(tmp_path):
    made = config(tmp_path / "from")
    with claimed(tmp_path / "run", made, DATA, VOCABULARY):
        pass
    assert words.kept(tmp_path / "run") == VOCABULARY
    assert words.kept(tmp_path) is None
    (tmp_path / "run" / "checkpoints" / "2").mkdir(parents=True)
    with claimed(tmp_path / "run", made, DATA, VOCABULARY):
        pass
    with (
        pytest.raises(InputError, match="was begun with another vocabulary"),
        claimed(tmp_path / "run", made, DATA, OTHER),
    ):
        pass
    words.write(tmp_path / "copy", words.files(tmp_path / "run"))
    assert words.kept(tmp_path / "copy") == VOCABULARY
    (tmp_path / "copy" / words.FOLDER / "merges.txt").write_bytes(b"\xff")
    with pytest.raises(InputError, match="is damaged"):
        words.kept(tmp_path / "copy")
    (tmp_path / "copy" / words.FOLDER / "merges.txt").unlink()
    with pytest.raises(InputError, match="holds no vocabulary"):
        words.kept(tmp_path / "copy")


def test_captions_lead_a_prior_in_words_or_as_ids():
    condition, asked = TextCondition(100, 6), {"vocabulary": lambda: VOCABULARY}
    values, rows = values_of(None, ["A red apple", "apple"], condition, (), **asked)
    assert rows == ("A red apple", "apple")
    np.testing.assert_array_equal(values, [VOCABULARY.ids("a red apple", 6), VOCABULARY.ids("apple", 6)])
    one, _ = values_of(None, "apple", condition, (), **asked)
    np.testing.assert_array_equal(one, values[1:])
    empty, _ = values_of(None, "", condition, (), **asked)
    np.testing.assert_array_equal(empty, condition.null(1))
    again, rows = values_of(None, values.tolist(), condition, (), **asked)
    np.testing.assert_array_equal(again, values)
    assert rows == ("text 1", "text 2")
    with pytest.raises(InputError, match="is no UTF-8"):
        values_of(None, "\udcff", condition, (), **asked)
    with pytest.raises(InputError, match="out of range: this model has 4"):
        values_of(None, "apple", TextCondition(4, 6), (), **asked)
    with pytest.raises(InputError, match="led by 3 classes"):
        values_of(None, "apple", ClassCondition(3), (), **asked)
