import copy

import pytest

from rqjax.errors import InputError
from rqjax.official import documents
from tests.official_files import DOCUMENTS, RQTRANSFORMER, RQVAE


def test_official_defaults_are_filled_in():
    document = copy.deepcopy(RQVAE)
    del document["arch"]["hparams"]["restart_unused_codes"]
    assert documents.read(document).model.quantizer.restart_threshold == 0  # the loader's default, not the class's
    document = copy.deepcopy(RQTRANSFORMER)
    document["loss"] = {}
    model = documents.read(document).model
    assert (model.target, model.temperature, model.stochastic) == ("hard", 1.0, False)


def test_numbers_of_yaml_are_those_of_the_release(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: 4e-5\nb: 1E3\nc: 4.5e-06\nd: e5\ne: 0x1e5\n")
    assert documents.read_yaml(path) == {"a": 4e-5, "b": 1000.0, "c": 4.5e-6, "d": "e5", "e": 0x1E5}


UNKNOWN = [
    ("rqvae", ("arch", "hparams", "n_embeds"), "arch.hparams.n_embeds"),
    ("rqvae", ("optimizer", "lr"), "unknown keys optimizer.lr"),
    ("rqvae", ("gan", "disc", "arch", "norm"), "gan.disc.arch.norm"),
    ("rqtransformer", ("arch", "body", "layers"), "layers"),
    ("rqtransformer", ("train", "x"), "train"),
    ("dqvae", ("optim", "x"), "optim"),
    ("dqvae", ("model", "params", "vqconfig", "params", "size"), "vqconfig.params.size"),
    ("dqtransformer", ("model", "params", "permuter_config", "params", "x"), "permuter_config.params.x"),
]


@pytest.mark.parametrize(("family", "place", "message"), UNKNOWN)
def test_unknown_keys_are_refused_by_name(family, place, message):
    document = copy.deepcopy(DOCUMENTS[family])
    section = document
    for key in place[:-1]:
        section = section.setdefault(key, {})
    section[place[-1]] = 1
    with pytest.raises(InputError, match=message):
        documents.read(document)


def test_values_that_we_lack_are_refused():
    for place, value in (("spectral_norm", True), ("use_actnorm", True)):
        document = copy.deepcopy(RQVAE)
        document["gan"]["disc"]["arch"][place] = value
        with pytest.raises(InputError, match=f"gan.disc.arch.{place} is True: expected False"):
            documents.read(document)
    document = copy.deepcopy(RQTRANSFORMER)
    document["arch"]["vocab_size"] = 8
    with pytest.raises(InputError, match=r"arch.vocab_size is \(8,\), dataset.vocab_size is \(16,\)"):
        documents.read(document)
    for nothing in ({}, {"arch": None}, {"model": 3}, {"arch": {"type": "vqgan"}}):
        with pytest.raises(InputError):
            documents.read(nothing)


HOSTILE = {
    "aliases of aliases": "a0: &a0 {x: 1}\na1: &a1 {k: *a0, l: *a0}\narch: {type: rq-vae}\n",
    "merge keys": "a: &a {x: 1}\nb: {<<: [*a, *a]}\n",
    "an alias of itself": "a: &a {b: *a}\n",
    "a sexagesimal number": f"a: 1{':59' * 20_000}.5\n",
    "a tag that does not fit": "a: !!bool x\n",
    "a date that is none": "a: !!timestamp x\n",
    "deep brackets": "[" * 100_000,
    "a list as a key": "? [a]\n: 1\n",
    "no sections": "- 1\n",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_yaml_is_refused_in_one_line(kind, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(HOSTILE[kind])
    with pytest.raises(InputError, match=r"config.yaml (is not YAML|holds no sections)") as caught:
        documents.read_yaml(path)
    assert str(caught.value).isprintable()


def leaves(section: dict, path: tuple[str, ...] = ()):
    for key, value in section.items():
        yield from leaves(value, (*path, key)) if isinstance(value, dict) else [(*path, key)]


STRANGE = (None, "x", "", -1, 0, 1.5, True, [], [None], {}, {"x": 1}, 10**30, 10**5000, float("nan"), "x" * 5000, "\0")


@pytest.mark.parametrize("family", DOCUMENTS)
def test_any_value_in_any_place_is_read_or_refused_in_one_line(family):
    refused = []
    for *parents, last in leaves(DOCUMENTS[family]):
        for value in STRANGE:
            document = copy.deepcopy(DOCUMENTS[family])
            section = document
            for key in parents:
                section = section[key]
            section[last] = value
            try:
                documents.read(document)
            except InputError as error:
                refused.append(str(error))
    assert len(refused) > 100
    assert [message for message in refused if not message.isprintable()] == []


def test_a_threshold_table_that_is_a_device_is_not_opened():
    document = copy.deepcopy(DOCUMENTS["dqvae"])
    router = document["model"]["params"]["encoderconfig"]["params"]["router_config"]["params"]
    router["json_path"] = "/dev/zero"
    with pytest.raises(InputError, match="'/dev/zero' cannot be read"):
        documents.read(document)


def test_the_file_may_give_the_discriminator_an_optimizer_of_its_own():
    document = copy.deepcopy(RQVAE)
    document["gan"]["disc"]["optimizer"] = {"init_lr": 1e-5, "warmup": {"min_lr": 0.0}}
    document["optimizer"]["max_gn"] = 1.0
    stage = documents.read(document).run.stage
    assert (stage.optimizer.learning_rate, stage.discriminator_optimizer.learning_rate) == (3e-5, 1e-5)
    assert (stage.optimizer.clip_norm, stage.discriminator_optimizer.clip_norm) == (1.0, 0.0)
    assert stage.discriminator_optimizer.b1 == 0.4  # where it says nothing, it is the generator's
    assert stage.reconstruction == "mse"
