"""Names of arrays and configurations of version 0.1, read as the present ones."""

import json

import jax
import numpy as np
import pytest

from rqjax.errors import InputError
from rqjax.run.config import RESUMABLE, differences, from_dict, to_dict
from rqjax.run.versions import places
from rqjax.store import model_folder
from rqjax.store.arrays import Place, to_arrays
from tests.configs.tiny import get_config
from tests.conftest import equal

BOOK = ("embed", "count", "total", "padding")


def residual(prefix):
    names = [f"{prefix}quantizer/codebooks/{i}/{part}" for i in range(2) for part in BOOK]
    old = [f"{prefix}codebooks/{i}/{part}" for i in range(2) for part in BOOK[:3]]
    return [f"{prefix}network/a", *names], [f"{prefix}network/a", *old, f"{prefix}padding"]


@pytest.mark.parametrize("prefix", ["", "model/", "ema/"])
def test_residual_codebooks_of_the_first_version_are_found(prefix):
    present, old = residual(prefix)
    assert places(present, present) == {name: Place(name) for name in present}
    found = places(present, old)
    assert found[f"{prefix}network/a"] == Place(f"{prefix}network/a")
    assert found[f"{prefix}quantizer/codebooks/1/total"] == Place(f"{prefix}codebooks/1/total")
    assert found[f"{prefix}quantizer/codebooks/1/padding"] == Place(f"{prefix}padding", 1)
    assert {place.name for place in found.values()} == set(old)


@pytest.mark.parametrize("prefix", ["", "model/", "ema/"])
def test_the_dynamic_codebook_of_the_first_version_is_found(prefix):
    present = [f"{prefix}quantizer/{part}" for part in BOOK]
    old = [f"{prefix}codebooks/0/{part}" for part in BOOK[:3]] + [f"{prefix}padding"]
    assert list(places(present, old).values()) == [Place(name) for name in old]


def test_a_name_that_no_version_had_stays_to_be_missed():
    assert places(["model/quantizer/new"], ["model/padding"]) == {"model/quantizer/new": Place("model/quantizer/new")}
    assert places(["optimizer/quantizer/padding"], ["optimizer/padding"]) == {
        "optimizer/quantizer/padding": Place("optimizer/quantizer/padding")
    }


def test_a_folder_of_the_first_version_is_read(tmp_path):
    rng = np.random.default_rng(0)
    old = {
        "network": {"a": rng.standard_normal(3)},
        "codebooks": [{"embed": rng.standard_normal((4, 2)), "count": np.arange(4.0)} for _ in range(2)],
        "padding": rng.standard_normal((2, 2)),
    }
    old = jax.tree.map(np.float32, old)
    model_folder.save(tmp_path, {}, {"model": old}, "")
    books = [{**book, "padding": row} for book, row in zip(old["codebooks"], old["padding"], strict=True)]
    present = {"network": old["network"], "quantizer": {"codebooks": books}}
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), present)
    found = model_folder.ModelFolder(tmp_path).item("model", like, places)
    assert list(to_arrays(found)) == list(to_arrays(present))
    assert equal(found, present)
    wrong = {"network": like["network"], "quantizer": {"codebooks": [{"new": like["network"]["a"]}]}}
    with pytest.raises(InputError, match=r"missing quantizer/codebooks/0/new"):
        model_folder.ModelFolder(tmp_path).item("model", wrong, places)


def test_a_field_that_is_newer_than_a_run_has_its_default_there():
    """A version that adds a field does not lock the runs made before it: its default is how they behaved."""
    ours = to_dict(get_config("rqvae"))
    theirs = json.loads(json.dumps(ours))
    del theirs["version"], theirs["start_from"], theirs["stage"]["ema_decay"], theirs["stage"]["model"]["remat"]
    read = to_dict(from_dict(theirs))
    changed = differences(read, ours)
    assert set(changed) == {"stage.model.remat"}  # the quickstart's is not the default
    assert not set(changed) & set(RESUMABLE)


def test_a_newer_configuration_is_refused_with_its_version():
    theirs = to_dict(get_config("rqvae")) | {"version": "9.1", "surprise": 1}
    with pytest.raises(InputError, match=r"unknown fields \['surprise'\]: it was written by version 9.1 of rqjax"):
        from_dict(theirs)
