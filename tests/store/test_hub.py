import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import rqjax
from rqjax.errors import InputError
from rqjax.official import to_torch
from rqjax.programs import convert
from rqjax.programs.train import train
from rqjax.run.directory import Run
from rqjax.store import model_folder
from rqjax.torchfile import file
from tests.configs.tiny import get_config
from tests.conftest import equal
from tests.official_files import imported


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A run that kept averaged weights and a discriminator."""
    folder = tmp_path_factory.mktemp("trained") / "tokenizer"
    config = get_config("rqvae")
    config.steps, config.stage.ema_decay, config.stage.disc_weight = 2, 0.5, 0.5
    train(config, folder)
    return folder


def test_a_run_becomes_a_folder_and_a_run_again(tiny_run, tmp_path):
    prior = tiny_run("rqtransformer")
    convert.run_to_folder(str(prior), str(tmp_path / "folder"))
    files = {"config.json", "model.safetensors", "classes.json", "tokenizer"}
    assert {path.name for path in (tmp_path / "folder").iterdir()} == files
    convert.folder_to_run(str(tmp_path / "folder"), str(tmp_path / "run"))
    assert Run.open(tmp_path / "run").step == 0
    for place in (tmp_path / "folder", tmp_path / "run"):
        assert Run.open(place).config == Run.open(prior).config
        assert equal(rqjax.load(place).model, rqjax.load(prior).model)
        assert equal(Run.open(place).tokenizer().model(), rqjax.load(tiny_run("rqvae")).model)


def test_averaged_weights_leave_unless_told_otherwise(tokenizer, tmp_path):
    averaged, last = (rqjax.load(tokenizer, ema=ema).model for ema in (True, False))
    assert not equal(averaged, last)
    for ema, model in ((True, averaged), (False, last)):
        convert.run_to_folder(str(tokenizer), str(tmp_path / str(ema)), ema=ema)
        assert equal(rqjax.load(tmp_path / str(ema)).model, model)


def test_training_starts_from_a_folder_or_a_run(tiny_run, tmp_path):
    """With a rate of zero, what a run begins with is what it ends with; the optimizers are new."""
    prior = tiny_run("rqtransformer")
    convert.run_to_folder(str(prior), str(tmp_path / "folder"))
    model_folder.write_licence(tmp_path / "folder", "terms")
    for source in (tmp_path / "folder", prior):
        config = get_config("rqtransformer")
        config.steps, config.stage.optimizer.learning_rate, config.stage.optimizer.weight_decay = 1, 0.0, 0.0
        config.stage.tokenizer_path, config.start_from = str(tmp_path / "folder" / "tokenizer"), str(source)
        state = train(config, tmp_path / f"from_{source.name}")
        assert int(state.step) == 1
        assert equal(state.model, rqjax.load(source).model)
    assert Run.open(tmp_path / "from_folder").licences == ["terms"]
    assert Run.open(tmp_path / "from_rqtransformer").licences == []


def test_training_goes_on_in_a_run_that_was_imported(tiny_run, tmp_path):
    """Its checkpoint of step 0 has a model and nothing else of a training state."""
    prior = tiny_run("rqtransformer")
    convert.run_to_folder(str(prior), str(tmp_path / "folder"))
    convert.folder_to_run(str(tmp_path / "folder"), str(tmp_path / "run"))
    config = get_config("rqtransformer")
    config.steps, config.stage.optimizer.learning_rate, config.stage.optimizer.weight_decay = 1, 0.0, 0.0
    state = train(config, tmp_path / "run")
    assert int(state.step) == Run.open(tmp_path / "run").step == 1
    assert equal(state.model, rqjax.load(prior).model)


def test_the_discriminator_goes_on_where_it_was(tokenizer, tmp_path):
    config = get_config("rqvae")
    config.steps, config.stage.disc_weight, config.start_from = 1, 0.5, str(tokenizer)
    config.stage.optimizer.learning_rate = config.stage.discriminator_optimizer.learning_rate = 0.0
    state = train(config, tmp_path / "a")
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state.discriminator)
    assert equal(state.discriminator, Run.open(tokenizer).item("discriminator", like))


def test_weights_of_another_model_are_refused(tokenizer, tmp_path):
    config = get_config("rqvae")
    config.stage.model.ch_mult = (1, 2, 1, 1)
    config.start_from = str(tokenizer)
    with pytest.raises(InputError, match="does not fit"):
        train(config, tmp_path / "a")


def test_damaged_folders_give_one_line(tmp_path):
    folder = imported("rqtransformer", tmp_path)
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-4])
    with pytest.raises(InputError, match="truncated or damaged"):
        rqjax.load(folder)
    path.write_bytes(content)
    for text in ("{", "[]", json.dumps({"type": "Config"}), json.dumps({"type": "os.system"})):
        (folder / "config.json").write_text(text)
        with pytest.raises(InputError):
            rqjax.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"config.json cannot be read"):
        rqjax.load(folder)
    path.unlink()
    with pytest.raises(InputError, match="holds no checkpoint"):
        rqjax.load(folder)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    def fail():
        with model_folder.new_folder(tmp_path / "a") as folder:
            (folder / "half").write_text("made")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        fail()
    assert not list(tmp_path.iterdir())
    with model_folder.new_folder(tmp_path / "b" / "c") as folder:
        (folder / "x").write_text("1")
        assert not (tmp_path / "b" / "c").exists()
    assert (tmp_path / "b" / "c" / "x").read_text() == "1"
    with pytest.raises(InputError, match="exists already"), model_folder.new_folder(tmp_path / "b" / "c"):
        pass


def test_importing_the_package_alone_imports_no_jax():
    line = "import rqjax, sys; assert callable(rqjax.load) and 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", line], check=True, cwd=pathlib.Path(rqjax.__file__).parent.parent)


def test_a_trained_run_leaves_with_its_discriminator(tokenizer, tiny_run, tmp_path):
    convert.run_to_torch(str(tokenizer), str(tmp_path / "a.pt"))
    contents = file.load(tmp_path / "a.pt")
    model = rqjax.load(tokenizer).model
    expected = to_torch(model)
    assert list(contents["state_dict"]) == list(expected)
    assert all(np.array_equal(contents["state_dict"][key], expected[key]) for key in expected)
    assert contents["discriminator"]["main.3.running_var"].max() == 1
    assert "main.0.weight" in contents["discriminator"]
    convert.run_to_torch(str(tiny_run("rqtransformer")), str(tmp_path / "b.pt"))
    assert list(file.load(tmp_path / "b.pt")) == ["state_dict"]
