"""A run directory as one object, and everything frozen that a stage takes from others."""

import dataclasses
import shutil

import jax
import pytest

from rqjax.errors import InputError
from rqjax.run import frozen
from rqjax.run.config import to_dict
from rqjax.run.directory import Run
from rqjax.store import model_folder
from tests.configs.tiny import get_config
from tests.conftest import equal


def fill(folder, config, licence=""):
    """A model's folder with fresh weights."""
    folder.mkdir(parents=True)
    model = jax.jit(config.stage.model.init)(jax.random.key(0))
    model_folder.save(folder, to_dict(config), {"model": model}, licence)
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders: a tokenizer, and a prior of its family that keeps none."""
    root = tmp_path_factory.mktemp("made")
    fill(root / "tokenizer", get_config("rqvae"), "terms")
    fill(root / "prior", get_config("rqtransformer"))
    return root


def prior_config(path, **changes):
    config = get_config("rqtransformer")
    stage = dataclasses.replace(config.stage, tokenizer_path=str(path), **changes)
    return dataclasses.replace(config, stage=stage)


def test_nothing_is_no_run(tmp_path):
    assert Run.find(tmp_path) is None
    with pytest.raises(InputError, match="holds no checkpoint: expected a run directory"):
        Run.open(tmp_path)


def test_a_run_knows_its_kind_and_its_tokenizer(made):
    tokenizer, prior = Run.open(made / "tokenizer"), Run.open(made / "prior")
    assert tokenizer.tokenizer() is tokenizer
    assert tokenizer.config is tokenizer.config
    assert (tokenizer.step, tokenizer.licences, prior.licences) == (0, ["terms"], [])
    prior.check_tokenizer(tokenizer)
    with pytest.raises(InputError, match="holds a prior without its tokenizer: pass --tokenizer DIR"):
        prior.tokenizer()
    with pytest.raises(InputError, match="expected the run of a prior"):
        tokenizer.check_tokenizer(tokenizer)
    with pytest.raises(InputError, match="expected the run of a tokenizer"):
        prior.check_tokenizer(prior)


def test_a_tokenizer_that_is_not_written_is_read_from_its_run(made, tmp_path):
    config = prior_config(made / "tokenizer", tokenizer=None)
    filled = frozen.with_tokenizer(config, tmp_path)
    assert filled.stage.tokenizer == get_config("rqvae").stage.model
    assert config.stage.tokenizer is None
    assert filled == prior_config(made / "tokenizer")
    assert frozen.with_tokenizer(filled, tmp_path) is filled


def test_a_written_tokenizer_agrees_with_its_run_but_for_how_it_computes(made, tmp_path):
    model = get_config("rqvae").stage.model
    faster = dataclasses.replace(model, dtype="bfloat16", remat=True)
    config = prior_config(made / "tokenizer", tokenizer=faster)
    assert frozen.with_tokenizer(config, tmp_path) is config
    wider = prior_config(made / "tokenizer", tokenizer=dataclasses.replace(model, ch=24))
    with pytest.raises(
        InputError, match=r"stage.tokenizer.ch is 24 and 8 in .*tokenizer: set it to that, or leave"
    ) as e:
        frozen.with_tokenizer(wider, tmp_path)
    assert "\n" not in str(e.value)


def test_a_path_without_a_tokenizer_is_refused(made, tmp_path):
    for path, message in (
        ("", "expected the run directory of a trained tokenizer"),
        (tmp_path / "nowhere", "expected the run directory of a trained tokenizer"),
        (made / "prior", "holds a prior without its tokenizer"),
    ):
        with pytest.raises(InputError, match=message):
            frozen.with_tokenizer(prior_config(path), tmp_path)


def test_a_copy_of_the_tokenizer_is_kept_and_then_read(made, tmp_path):
    config = prior_config(made / "tokenizer")
    loaded = frozen.load(config, tmp_path)
    assert equal(loaded["tokenizer"], Run.open(made / "tokenizer").model())
    like = config.stage.build(1).frozen_shapes()
    assert jax.tree.structure(loaded) == jax.tree.structure(like)
    kept = Run.open(tmp_path / "tokenizer")
    assert kept.config == Run.open(made / "tokenizer").config
    assert kept.licence == "terms"
    shutil.copytree(made / "prior", tmp_path, dirs_exist_ok=True)  # until there is a whole one, the copy is nobody's
    moved = prior_config(tmp_path / "moved away", tokenizer=None)
    assert frozen.with_tokenizer(moved, tmp_path).stage.tokenizer == config.stage.tokenizer
    assert equal(frozen.load(config, tmp_path), loaded)


def test_stages_without_frozen_parts_take_none(tmp_path):
    for variant in ("rqvae", "classifier"):
        config = get_config(variant)
        assert frozen.with_tokenizer(config, tmp_path) is config
        assert frozen.load(config, tmp_path) is None
