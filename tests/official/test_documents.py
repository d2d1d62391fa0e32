import copy
import json
import os

import pytest

from rqjax.errors import InputError
from rqjax.official import documents
from rqjax.official.thresholds import Entropy
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


def test_a_threshold_table_is_a_small_regular_file(tmp_path):
    document = copy.deepcopy(DOCUMENTS["dqvae"])
    router = document["model"]["params"]["encoderconfig"]["params"]["router_config"]["params"]
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_text(" " * 2**20)
    (tmp_path / "deep").write_text("[" * 100_000)
    (tmp_path / "huge").write_text(json.dumps(dict.fromkeys(range(1, 100), 10**400)))
    kinds = {"/dev/zero": "a device", "pipe": "a pipe", "long": "1048576 bytes", "deep": "recursion", "huge": "exactly"}
    for path, reason in kinds.items():
        router["json_path"] = path
        with pytest.raises(InputError, match=f"threshold table .*{path} .*{reason}"):
            documents.read(document, Entropy(folder=tmp_path))


def dq_stage(**options):
    document = copy.deepcopy(DOCUMENTS["dqvae"])
    document["model"]["params"]["lossconfig"]["params"] |= options
    return documents.read(document).run.stage


def test_the_loss_of_a_dqvae_is_that_of_the_file():
    weights = lambda stage: (stage.disc_weight, stage.disc_weight_max, stage.disc_loss_weight, stage.adaptive)  # noqa: E731
    assert weights(dq_stage()) == (1.0, 0.75, 1.0, True)
    assert weights(dq_stage(disc_weight_max=None)) == (1.0, 0.0, 1.0, True)  # no cap
    assert weights(dq_stage(disc_weight_max=0)) == (0.0, 0.0, 1.0, True)  # a cap that leaves nothing
    assert weights(dq_stage(disc_factor=0.5, disc_weight=3)) == (1.5, 0.375, 0.5, True)
    assert weights(dq_stage(disc_adaptive_loss=False, disc_weight=3)) == (0.75, 0.0, 1.0, False)
    assert dq_stage(disc_start=2).disc_start == 2 * 5339  # epochs
    for wrong, message in (
        ({"disc_adaptive_loss": False, "disc_weight_max": None}, "lossconfig.params.disc_weight_max is missing"),
        ({"disc_factor": -1}, "disc_factor is -1.0: expected a number of at least 0"),
        ({"disc_conditional": True}, "disc_conditional is True: expected False"),
        ({"disc_loss": "bce"}, "disc_loss is 'bce': expected one of hinge, vanilla"),
    ):
        with pytest.raises(InputError, match=message):
            dq_stage(**wrong)


def test_the_loss_of_a_prior_is_a_known_one():
    document = copy.deepcopy(RQTRANSFORMER)
    del document["loss"]
    assert documents.read(document).model.target == "hard"  # the official default
    document["loss"] = {"type": "focal"}
    with pytest.raises(InputError, match=r"loss\.type is 'focal': expected one of cross_entropy, soft_target_cross"):
        documents.read(document)
    document["loss"] = {"temp": -1.0}
    with pytest.raises(InputError, match=r"loss\.temp"):
        documents.read(document)


def test_errors_of_tokenizers_name_the_options_of_the_file():
    rq, dq = copy.deepcopy(RQVAE), copy.deepcopy(DOCUMENTS["dqvae"])
    rq["arch"]["ddconfig"]["resolution"] = 15
    with pytest.raises(InputError, match=r"^arch\.ddconfig\.resolution 15 .* shorten arch\.ddconfig\.ch_mult$"):
        documents.read(rq)
    dq["model"]["params"]["decoderconfig"]["params"]["ch_mult"] = [1, 1]
    with pytest.raises(InputError, match=r"^model\.params\.decoderconfig\.params\.ch_mult has 2 levels"):
        documents.read(dq)


def test_the_file_may_give_the_discriminator_an_optimizer_of_its_own():
    document = copy.deepcopy(RQVAE)
    document["gan"]["disc"]["optimizer"] = {"init_lr": 1e-5, "warmup": {"min_lr": 0.0}}
    document["optimizer"]["max_gn"] = 1.0
    stage = documents.read(document).run.stage
    assert (stage.optimizer.learning_rate, stage.discriminator_optimizer.learning_rate) == (3e-5, 1e-5)
    assert (stage.optimizer.clip_norm, stage.discriminator_optimizer.clip_norm) == (1.0, 0.0)
    assert stage.discriminator_optimizer.b1 == 0.4  # where it says nothing, it is the generator's
    assert stage.reconstruction == "mse"
