"""A prior that is told where its tokenizer is, and nothing else about it."""

import dataclasses

import numpy as np
import pytest

from rqjax.errors import InputError
from rqjax.run import follow
from rqjax.run.config import load_file, to_dict
from rqjax.store import model_folder


def run_of(folder, config):
    """A folder with the configuration of a run, which is all that is read here."""
    model_folder.save(folder, to_dict(config), {"model": {"x": np.zeros(1)}}, "")
    return str(folder)


@pytest.fixture
def large(tmp_path):
    """Runs of tokenizers at 64x64 pixels by family, and a prior's."""
    runs = {}
    for name in ("rqvae", "dqvae"):
        config = load_file("quickstart", name)
        config.stage.model.resolution = config.data.size = 64
        config.data.resize = 72
        if name == "rqvae":
            config.stage.model.quantizer.codebook_size, config.stage.model.quantizer.depth = (64, 32), 2
        runs[name] = run_of(tmp_path / name, config)
    return runs | {
        name: run_of(tmp_path / name, load_file("quickstart", name)) for name in ("rqtransformer", "classifier")
    }


def prior(path, name="rqtransformer", **changes):
    config = load_file("quickstart", name)
    return dataclasses.replace(config, stage=dataclasses.replace(config.stage, tokenizer_path=path, **changes))


def test_an_rq_prior_follows_its_tokenizer(large, tmp_path):
    config = follow.tokenizer(prior(large["rqvae"]), tmp_path, {"stage.tokenizer_path"})
    model = config.stage.model
    assert (model.code_shape, model.depth, model.codebook_size, model.input_dim) == ((4, 4), 2, (64, 32), 4**2 * 16)
    assert (config.data.size, config.data.resize, config.stage.tokenizer.resolution) == (64, 72, 64)
    config.check()
    unwritten = follow.tokenizer(prior(large["rqvae"], tokenizer=None), tmp_path, {"stage.tokenizer"})
    assert unwritten == config


def test_a_dq_prior_follows_its_tokenizer_and_has_room_for_its_longest_sequence(large, tmp_path):
    before = prior(large["dqvae"], "dqtransformer")
    config = follow.tokenizer(before, tmp_path, ())
    assert config.stage.model.grids == (8, 16)
    assert config.stage.model.block_size == config.stage.model.layout.capacity - 1 > before.stage.model.block_size
    assert config.data.size == 64
    config.check()


def test_a_prior_that_agrees_stays_as_it_is(tmp_path):
    path = run_of(tmp_path / "same", load_file("quickstart", "rqvae"))
    config = prior(path)
    config.stage.tokenizer.dtype, config.stage.tokenizer.remat = "bfloat16", True  # how it computes is its own
    config.stage.model.codebook_size, config.data.resize = (512,) * 4, 40
    assert follow.tokenizer(config, tmp_path, ()) == config
    assert follow.tokenizer(load_file("quickstart", "rqvae"), tmp_path, ()) == load_file("quickstart", "rqvae")


def test_the_copy_in_the_run_directory_comes_first(large, tmp_path):
    run_of(tmp_path / "prior", load_file("quickstart", "rqtransformer"))
    run_of(tmp_path / "prior" / "tokenizer", load_file("quickstart", "rqvae"))
    for path in ("", "moved away", large["rqvae"]):
        assert follow.tokenizer(prior(path), tmp_path / "prior", ()).stage.model.depth == 4


@pytest.mark.parametrize(
    ("field", "value"), [("stage.model.depth", 3), ("stage.tokenizer.quantizer.depth", 3), ("data.size", 48)]
)
def test_a_flag_that_contradicts_the_tokenizer_is_named(large, tmp_path, field, value):
    config = prior(large["rqvae"])
    holder = config
    *path, last = field.split(".")
    for part in path:
        holder = getattr(holder, part)
    setattr(holder, last, value)
    with pytest.raises(
        InputError, match=rf"--config.{field} is {value} and follows from the tokenizer in .*rqvae, which"
    ):
        follow.tokenizer(config, tmp_path, {field})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("dqvae", "an RQTransformerConfig with a PatchDQVAEConfig: expected an RQVAEConfig"),
        ("classifier", "classifier holds a ClassifierConfig: expected the run of a tokenizer"),
        ("rqtransformer", "holds a prior without its tokenizer"),
        ("nothing", "nothing': expected the run directory of a trained tokenizer"),
    ],
)
def test_another_kind_is_one_line(large, tmp_path, kind, message):
    with pytest.raises(InputError, match=message) as caught:
        follow.tokenizer(prior(large.get(kind, str(tmp_path / "nothing"))), tmp_path, ())
    assert "\n" not in str(caught.value)


NAMES = ("cat", "dog", "hat")


def test_the_number_of_classes_follows_the_data(tmp_path):
    for variant in ("rqtransformer", "dqtransformer", "classifier"):
        config = load_file("quickstart", variant)
        followed = follow.classes(config, tmp_path, NAMES, {"steps"})
        assert followed.stage.model.classes == 3
        follow.check_classes(followed, tmp_path, NAMES)
        assert follow.classes(config, tmp_path, (), ()) == config  # no names are known
        follow.check_classes(config, tmp_path, ())
        assert follow.classes(config, tmp_path, NAMES, {"stage.model.classes"}) == config
        with pytest.raises(
            InputError, match=r"the data has 3 classes, stage.model.classes is 10: .* give the data of all"
        ):
            follow.check_classes(config, tmp_path, NAMES)
        with pytest.raises(InputError, match=r"the data has 11 classes, .*: set it to 11, .* take class folders away"):
            follow.check_classes(config, tmp_path, [str(k) for k in range(11)])
    for config in (load_file("imagenet_dqtransformer", "uncond"), load_file("quickstart", "rqvae")):
        assert follow.classes(config, tmp_path, NAMES, ()) == config
        follow.check_classes(config, tmp_path, NAMES)


def test_a_run_that_is_resumed_keeps_its_number_of_classes(tmp_path):
    """Earlier versions let a prior have more classes than its data."""
    config = load_file("quickstart", "rqtransformer")
    run_of(tmp_path / "a", config)
    assert follow.classes(config, tmp_path / "a", NAMES, ()) == config
    follow.check_classes(config, tmp_path / "a", NAMES)
