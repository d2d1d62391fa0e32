"""The claim of a run directory: whose it is, which fields may change, and that the data stay the same."""

import dataclasses
import json

import pytest

from rqjax.errors import InputError
from rqjax.programs.train import train
from rqjax.run import frozen
from rqjax.run.dataset import Dataset
from rqjax.run.start import claimed
from tests.configs.tiny import get_config

DATA = Dataset(12, ("cat", "dog"))


def claim(workdir, config, dataset=DATA):
    with claimed(workdir, config, dataset):
        pass


@pytest.fixture
def begun(tmp_path):
    """A run directory with a checkpoint, as far as a claim looks at it."""
    claim(tmp_path, get_config("classifier"))
    (tmp_path / "checkpoints" / "2").mkdir(parents=True)
    return tmp_path


def changed(**fields):
    config = get_config("classifier")
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **fields))


def test_without_a_whole_checkpoint_it_is_nobodys(tmp_path):
    claim(tmp_path, get_config("classifier"))
    (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir(parents=True)
    claim(tmp_path, changed(path="elsewhere", size=16), Dataset(3, ("bird",)))
    assert json.loads((tmp_path / "config.json").read_text())["data"]["size"] == 16
    assert Dataset.read(tmp_path) == Dataset(3, ("bird",))


def test_places_of_files_may_change_and_a_line_says_so(begun, capsys):
    claim(begun, changed(path="moved", on_corrupt="stop"))
    assert capsys.readouterr().out == f"{begun}: data.path is moved now, it was \n"
    with pytest.raises(InputError, match=r"belongs to another configuration: data.size is 32 there and 16 here"):
        claim(begun, changed(size=16))


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Dataset(13, DATA.classes), "was begun with 12 images and the data has 13: its steps would see others"),
        (Dataset(12, ("dog", "cat")), "was begun with the classes cat, dog and the data has dog, cat: labels would"),
    ],
)
def test_other_data_are_refused_and_nothing_changes(begun, dataset, message):
    before = {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=message):
        claim(begun, changed(path="moved"), dataset)
    assert {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()} == before


def test_a_run_of_a_version_that_kept_no_data_set_goes_on(begun):
    (begun / "data.json").unlink()
    claim(begun, get_config("classifier"), Dataset(5, ()))
    assert Dataset.read(begun) == Dataset(5, ())
    (begun / "data.json").write_text("{")
    with pytest.raises(InputError, match=r"data.json is damaged .*: delete it"):
        claim(begun, get_config("classifier"))


def test_a_tokenizer_that_was_copied_for_nothing_goes(tmp_path):
    copy = tmp_path / "run" / "tokenizer"
    (copy / "checkpoints" / "4").mkdir(parents=True)
    assert frozen.left_over(tmp_path / "run")
    claim(tmp_path / "run", get_config("classifier"))
    assert not copy.exists()
    claim(copy, get_config("rqvae"))  # a run of somebody who keeps his tokenizer there
    (copy / "checkpoints" / "4").mkdir(parents=True)
    claim(tmp_path / "run", get_config("classifier"))
    assert (copy / "checkpoints" / "4").is_dir()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("path", "nothing", "data.path 'nothing' is not a folder"),
        ("batch", 12, "no mesh of 8 devices splits 12 rows"),
    ],
)
def test_a_start_that_cannot_be_writes_nothing(field, value, message, tmp_path):
    config = changed(**{"name": "folder" if field == "path" else "synthetic", field: value})
    with pytest.raises(InputError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
