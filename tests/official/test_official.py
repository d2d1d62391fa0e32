import copy

import pytest

from rqjax.errors import InputError
from rqjax.official import documents as official
from tests.official_files import DOCUMENTS, RQTRANSFORMER, RQVAE


def test_official_defaults_are_filled_in():
    document = copy.deepcopy(RQVAE)
    del document["arch"]["hparams"]["restart_unused_codes"]
    assert official.read(document).model.quantizer.restart_threshold == 0  # the loader's default, not the class's
    document = copy.deepcopy(RQTRANSFORMER)
    document["loss"] = {}
    model = official.read(document).model
    assert (model.target, model.temperature, model.stochastic) == ("hard", 1.0, False)


def test_numbers_of_yaml_are_those_of_the_release(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: 4e-5\nb: 1E3\nc: 4.5e-06\nd: e5\ne: 0x1e5\n")
    assert official.read_yaml(path) == {"a": 4e-5, "b": 1000.0, "c": 4.5e-6, "d": "e5", "e": 0x1E5}


UNKNOWN = [
    ("rqvae", ("arch", "hparams", "n_embeds"), "arch.hparams.n_embeds"),
    ("rqvae", ("optimizer", "lr"), "unknown keys in this RQ config: optimizer.lr"),
    ("rqvae", ("gan", "disc", "arch", "norm"), "gan.disc.arch.norm"),
    ("rqtransformer", ("arch", "body", "layers"), "layers"),
    ("rqtransformer", ("train", "x"), "train.x"),
    ("dqvae", ("optim", "x"), "optim"),
    ("dqvae", ("model", "params", "vqconfig", "params", "size"), "quantizer.size"),
    ("dqtransformer", ("model", "params", "permuter_config", "params", "x"), "permuter_config.x"),
]


@pytest.mark.parametrize(("family", "place", "message"), UNKNOWN)
def test_unknown_keys_are_refused_by_name(family, place, message):
    document = copy.deepcopy(DOCUMENTS[family])
    section = document
    for key in place[:-1]:
        section = section.setdefault(key, {})
    section[place[-1]] = 1
    with pytest.raises(InputError, match=message):
        official.read(document)


def test_values_that_we_lack_are_refused():
    for place, value in (("spectral_norm", True), ("use_actnorm", True)):
        document = copy.deepcopy(RQVAE)
        document["gan"]["disc"]["arch"][place] = value
        with pytest.raises(InputError, match=f"{place} is True: only False is supported"):
            official.read(document)
    document = copy.deepcopy(RQTRANSFORMER)
    document["arch"]["vocab_size"] = 8
    with pytest.raises(InputError, match=r"arch.vocab_size is 8, dataset.vocab_size is 16"):
        official.read(document)
    for nothing in ({}, {"arch": None}, {"model": 3}, {"arch": {"type": "vqgan"}}):
        with pytest.raises(InputError):
            official.read(nothing)
