"""Models that go to a hub and come back: the client is the real one, the hub a stand-in on this machine."""

import json
import shutil
import sys

import jax
import pytest
import yaml

import rqjax
from rqjax.errors import InputError
from rqjax.store import model_folder
from tests.conftest import equal
from tests.stand_in import hub as stand_in

PRIOR = "hf://somebody/bags"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub, and a client that knows no other: an empty cache, and nobody logged in."""
    from huggingface_hub import constants

    with stand_in.running() as hub, pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # a transfer of its own, that the stand-in does not speak
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        yield hub


@pytest.fixture(scope="module")
def owned(folders, tmp_path_factory):
    """A prior of three classes that was told the places of its files, and figures that its run kept."""
    path = shutil.copytree(folders["rq"], tmp_path_factory.mktemp("owned") / "prior")
    for folder, field in ((path, "tokenizer_path"), (path / "tokenizer", "vgg16_path")):
        config = json.loads((folder / "config.json").read_text())
        config.pop("crc32")
        config["data"]["path"], config["stage"][field] = "/home/somebody/pictures", "/home/somebody/file"
        (folder / "config.json").write_text(json.dumps(config))
    line = {"step": 0, "eval_loss": 1.5, "loss": 2.0}
    (path / "metrics.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(line | {"step": 7, "eval_loss": 9.0}))
    return path


@pytest.fixture(scope="module")
def pushed(hub, owned):
    """The commit of a prior."""
    return rqjax.load(owned).push(PRIOR)


def test_a_prior_and_its_tokenizer_come_back_as_they_were(hub, owned, pushed, capfd):
    before = rqjax.load(owned)
    for address in (PRIOR, pushed, f"{PRIOR}@main"):
        after = rqjax.load(address)
        assert equal(after.model, before.model)
        assert equal(after.tokenizer.model, before.tokenizer.model)
        assert (after.classes, after.licence) == (before.classes, "terms")
    assert pushed == f"{PRIOR}@{hub.commits['somebody/bags'][0][0]}"
    asked = len(hub.asked)
    assert equal(rqjax.load(pushed).tokenizer.model, before.tokenizer.model)
    assert len(hub.asked) == asked  # a commit that was fetched stays as it is
    assert capfd.readouterr().err == ""


def test_a_repository_holds_a_models_folder_and_a_card_and_no_place_of_this_machine(hub, pushed):
    files = hub.files("somebody/bags")
    own = {"config.json", "model.safetensors", "licence.txt", "classes.json"}
    assert set(files) == {*own, *(f"tokenizer/{name}" for name in own), "README.md"}
    assert not [name for name, content in files.items() if b"/home/somebody" in content]
    assert hub.messages[0].startswith("RQTransformer, 1.")


def test_a_card_says_all_that_the_run_knows(hub, pushed):
    _, head, text = hub.files("somebody/bags")["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(head) == {
        "license": "other",
        "license_name": "terms",
        "license_link": "licence.txt",
        "library_name": "rqjax",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["rqjax", "jax", "rqtransformer"],
    }
    for said in (
        "| images | 8x8 pixels |",
        "| codes | 4x4x3 of 16 values |",
        "| classes | Bag, Coat, Dress |",
        "| led by | 3 classes |",
        "| trained on | fashion\\_mnist, split train |",
        f'prior = rqjax.load("{PRIOR}")',
        "On held-out images, at step 0:",
        "| loss | 1.5 |",
        "type: RQTransformerConfig",
    ):
        assert said in text
    assert "| loss | 9 |" not in text  # of later weights than these


def test_a_licence_is_recorded_or_said(hub, owned, tmp_path):
    free = shutil.copytree(owned, tmp_path / "free")
    (free / "licence.txt").unlink()
    with pytest.raises(InputError, match=r"free has no licence recorded: say under which its weights go out, licence="):
        rqjax.load(free).push("hf://somebody/free")
    assert "somebody/free" not in hub.commits
    rqjax.load(free).push("hf://somebody/free", licence="MIT", private=True)
    files = hub.files("somebody/free")
    assert (files["licence.txt"], files["tokenizer/licence.txt"]) == (b"MIT\n", b"terms\n")
    assert yaml.safe_load(files["README.md"].decode().split("---\n")[1])["license_name"] == "terms-and-mit"
    assert hub.private == {"somebody/free": True} | hub.private
    with pytest.raises(InputError, match="licence is 'MIT', and these weights are under terms: leave it out"):
        rqjax.load(owned).push("hf://somebody/other", licence="MIT")


def test_a_tokenizer_goes_alone(hub, owned):
    tokenizer = rqjax.load(owned / "tokenizer")
    tokenizer.push("hf://somebody/codes", message="first")
    files = hub.files("somebody/codes")
    assert sorted(files) == ["README.md", "classes.json", "config.json", "licence.txt", "model.safetensors"]
    assert 'tokenizer = rqjax.load("hf://somebody/codes")' in files["README.md"].decode()
    assert hub.messages[-1] == "first"
    assert equal(rqjax.load("hf://somebody/codes").model, tokenizer.model)


def test_damage_on_the_way_is_found(hub, pushed):
    weights = bytearray(hub.files("somebody/bags")["model.safetensors"])
    weights[-1] ^= 1
    changed = hub.files("somebody/bags")["config.json"].replace(b'"steps": 1', b'"steps": 2')
    for name, content in (("model.safetensors", bytes(weights)), ("config.json", changed)):
        hub.commits["somebody/damaged"] = [("1" * 40, hub.files("somebody/bags"))]
        sha = hub.add("somebody/damaged", {name: content})
        with pytest.raises(InputError, match="is not as it was written"):
            rqjax.load(f"hf://somebody/damaged@{sha}")


def test_what_is_not_there_is_one_line(hub, owned, pushed, monkeypatch):
    hub.commits["somebody/words"] = [("2" * 40, {"config.json": b'{"layers": 2}', "model.safetensors": b"x" * 1000})]
    asked = len(hub.asked)
    for address, message in (
        ("hf://bags", "hf://bags is no model of the hub: expected hf://OWNER/NAME"),
        ("hf://a/b@../c", "is no model of the hub"),
        ("hf://somebody/nothing", "nothing is not there, or not for everybody: look at its name, or log in"),
        (f"{PRIOR}@second", "second: there is no such revision"),
        ("hf://somebody/words", "words holds no model of rqjax: expected a repository that push.. made"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            rqjax.load(address)
        assert "\n" not in str(caught.value)
    assert not [line for line in hub.asked[asked:] if "model.safetensors" in line]
    monkeypatch.setattr(hub, "forbidden", True)
    with pytest.raises(InputError, match=r"the hub refuses \(.*\): log in as somebody who may"):
        rqjax.load(owned).push("hf://others/bags")


def test_without_the_hub_the_cache_serves(owned, pushed, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")  # where nobody listens
    assert equal(rqjax.load(PRIOR).model, rqjax.load(owned).model)
    with pytest.raises(InputError, match=r"hf://somebody/new cannot be reached .*: look at the network"):
        rqjax.load("hf://somebody/new")


def test_without_the_client_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"huggingface_hub is not installed: install rqjax\[hub\]"):
        rqjax.load(PRIOR)


def test_what_is_no_tokenizer_and_no_prior_is_not_pushed(tmp_path):
    from rqjax.nets.classifier import ClassifierConfig
    from rqjax.optim import OptimizerConfig
    from rqjax.run.config import Config, to_dict
    from rqjax.stages.classify import ClassifyConfig
    from tests.api.conftest import DATA

    model = ClassifierConfig(width=8, classes=3)
    stage = ClassifyConfig(model=model, optimizer=OptimizerConfig(learning_rate=0.1))
    made = model.init(jax.random.key(0))
    model_folder.save(tmp_path, to_dict(Config(stage=stage, data=DATA, steps=1)), {"model": made}, "terms")
    with pytest.raises(InputError, match="holds a Classifier: expected a tokenizer or a prior"):
        rqjax.load(tmp_path).push("hf://somebody/judge")
