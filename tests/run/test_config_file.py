"""Configurations as a command line names them, and one line for whatever is wrong with one."""

import dataclasses
import pathlib

import pytest

from rqjax.errors import InputError
from rqjax.flags.configuration import Asked, spelled
from rqjax.quantize.entropy import write_thresholds
from rqjax.run import config_file
from rqjax.run.config import load_file

HEAD = "from rqjax.run.config import load_file\n"
FILES = {
    "broken": ("def get_config(:\n", "broken.py, line 1: invalid syntax"),
    "empty": ("", "empty.py: has no function get_config"),
    "raises": ("def get_config():\n    x = 1\n    return x / 0\n", "raises.py, line 3: ZeroDivisionError: division by"),
    "dictionary": (
        "\ndef get_config():\n    return {}\n",
        "dictionary.py, line 2: get_config returns a dict: expected",
    ),
    "exits": ("import sys\nsys.exit(0)\n", "exits.py, line 2: ends the program"),
    "missing": ("import no_such_module\n", "missing.py, line 1: ModuleNotFoundError: No module named"),
    "refuses": (
        HEAD + "get_config = lambda: load_file('quickstart', 'vqvae')\n",
        "refuses.py: variant 'vqvae': expected",
    ),
    "latin": ("# \udce9", "latin.py"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_makes_no_configuration_is_refused_with_its_line(tmp_path, name):
    path, (source, expected) = tmp_path / f"{name}.py", FILES[name]
    path.write_bytes(source.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as caught:
        config_file.load(Asked(str(path)))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_is_found_from_anywhere_and_a_file_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_file.load(Asked("quickstart:dqvae")) == load_file("quickstart", "dqvae")
    pathlib.Path("mine:1.py").write_text(HEAD + "def get_config():\n    return load_file('quickstart')\n")
    assert config_file.load(Asked("mine:1.py")) == load_file("quickstart")
    for name, expected in (
        ("quickstrat:rqvae", "no such configuration; did you mean quickstart?"),
        ("configs/quickstart.py", "no such file; did you mean quickstart?"),
        (".", "is a folder"),
        ("notes.yaml", "no such file"),
        ("mine:1.py:big", "variant 'big': its get_config takes none"),
    ):
        with pytest.raises(InputError, match=expected.replace("?", r"\?")):
            config_file.load(Asked(name))
    pathlib.Path("notes.yaml").touch()
    with pytest.raises(InputError, match="expected a Python file with a function get_config"):
        config_file.load(Asked("notes.yaml"))


def test_a_file_without_variants_says_so(tmp_path):
    (tmp_path / "one.py").write_text(HEAD + "def get_config():\n    return load_file('quickstart')\n")
    with pytest.raises(InputError, match="variant 'two': its get_config takes none"):
        config_file.load(Asked(f"{tmp_path / 'one.py'}:two"))


def test_fields_are_set_by_words():
    words = [
        "--config.data.batch=64",
        "--config.data.flip",
        "--noconfig.data.shuffle",
        "--config.stage.ema_decay",
        "-.5",
    ]
    words += ["--config.stage.model.quantizer.levels=8,5,5", "--config.stage.model.code_shape=(2,2)", "--workdir", "x"]
    words = spelled(words)
    assert words[-2:] == ["--workdir", "x"]
    fields = tuple(word.removeprefix("--config.FIELD=") for word in words[:-2])
    config = config_file.load(Asked("quickstart:rqvae", fields))
    assert (config.data.batch, config.data.flip, config.data.shuffle) == (64, True, False)
    assert config.stage.ema_decay == -0.5
    assert config.stage.model.quantizer.levels == (8, 5, 5)
    assert config.stage.model.code_shape == (2, 2)
    assert config_file.load(Asked("quickstart:rqtransformer", ("stage.tokenizer=none",))).stage.tokenizer is None


@pytest.mark.parametrize(("ratios", "wanted"), [((0.5,), (0.5,)), ((0.3, 0.2), (0.5, 0.8))])
def test_thresholds_come_from_the_table_that_a_field_names(tmp_path, ratios, wanted):
    table = tmp_path / "table.json"
    write_thresholds(table, {k: k / 100 for k in range(1, 100)}, "-1_1", 8)
    routing = {"router": "entropy", "exact_ratio": "false", "thresholds_path": table}
    fields = tuple(f"stage.model.routing.{name}={value}" for name, value in routing.items())
    config = config_file.load(Asked("quickstart:dqvae", fields))
    config.check()
    assert (config.stage.model.routing.thresholds, config.stage.model.routing.thresholds_path) == ((0.5,), "")
    of_grains = dataclasses.replace(config.stage.model.routing, ratios=ratios, thresholds_path=str(table))
    assert of_grains.with_thresholds(8).thresholds == pytest.approx(wanted)
    with pytest.raises(InputError, match="is not read yet"):
        of_grains.check((2, 4, 8)[: len(ratios) + 1], 32)
    with pytest.raises(InputError, match="computed with bins -1_1 and patches of 8, the model uses bins 0_1"):
        config_file.load(Asked("quickstart:dqvae", (*fields, "stage.model.routing.entropy_bins=0_1")))
    with pytest.raises(InputError, match="set router=entropy and exact_ratio=false"):
        config_file.load(Asked("quickstart:dqvae", fields[-1:]))
    table.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        config_file.load(Asked("quickstart:dqvae", fields))


WRONG = {
    "depth=3": "has no field 'depth': did you mean --config.stage.model.quantizer.depth?",
    "stage.model.dept=3": "a RQVAEConfig has no field 'dept'",
    "data.bach=3": "did you mean --config.data.batch?",
    "xyz=3": "a Config has no field 'xyz': there are stage, data, steps",
    "steps.more=3": "steps is 240 and has no fields",
    "steps=many": "--config.steps is 'many': expected a whole number",
    "steps=1.5": "expected a whole number",
    "steps": "--config.steps has no value",
    "data.flip=maybe": "is 'maybe': expected true or false",
    "stage.ema_decay=abc": "expected a number",
    "stage.model.code_shape=4": "is '4': expected 2 whole numbers with commas between them",
    "stage.model.quantizer.levels=8,a": "is '8,a': expected whole numbers with commas between them",
    "stage.model=3": "is a RQVAEConfig: set one of its fields, resolution",
}


@pytest.mark.parametrize("field", WRONG)
def test_fields_that_do_not_exist_or_take_the_value_are_refused(field):
    with pytest.raises(InputError) as caught:
        config_file.load(Asked("quickstart:rqvae-conv", (field,)))
    assert WRONG[field] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_of_another_size_than_the_nets_are_refused():
    for variant, name in (("rqvae", "model"), ("dqtransformer", "tokenizer")):
        config = config_file.load(Asked(f"quickstart:{variant}", ("data.size=64", "data.resize=64")))
        with pytest.raises(InputError, match=f"data.size is 64 and stage.{name}.resolution is 32: make them equal"):
            config.check()


def test_a_path_in_place_of_the_packaged_images_is_a_folder_of_others():
    data = config_file.load(Asked("quickstart:rqvae", ("data.path=mine",))).data
    assert (data.name, data.path) == ("folder", "mine")
    assert config_file.load(Asked("quickstart:rqvae", ("data.path=",))).data.name == "fashion_mnist"
    captions = config_file.load(Asked("quickstart:rqvae", ("data.path=mine", "data.name=captions"))).data
    assert captions.name == "captions"
