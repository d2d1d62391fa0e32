"""The list of configurations, and of the fields of one."""

import dataclasses
import inspect
import runpy

import pytest

from rqjax.errors import InputError
from rqjax.flags.configuration import Asked
from rqjax.run import config_file
from rqjax.run.config import KINDS, load_file
from rqjax.run.fields import listed, meanings
from rqjax.run.shipped import shipped


def test_print_config_gives_flags_that_make_the_same_configuration(command):
    config = load_file("quickstart", "rqtransformer")
    fields = tuple(f"{field.name}={field.word}" for field in listed(config))
    assert config_file.load(Asked("quickstart:rqtransformer", fields)) == config
    status, out, _ = command("train", "--config=quickstart:rqtransformer", "--print_config", "--config.data.batch=7")
    assert status == 0
    lines = out.splitlines()
    assert len(lines) == len(fields)
    assert "--config.data.batch=7 images a step, over all hosts" in {" ".join(line.split()) for line in lines}


def test_configs_lists_all(command):
    status, out, _ = command("configs")
    assert status == 0
    for config in shipped():
        assert config.title
        assert f"{config.name}  {config.title}" in out


@pytest.mark.parametrize("config", shipped(), ids=lambda config: config.name)
def test_variants_are_those_of_the_file_and_the_first_is_the_default(config):
    default = inspect.signature(runpy.run_path(str(config.path))["get_config"]).parameters["variant"].default
    assert default == next(iter(config.variants), "")
    for variant, meaning in config.variants.items():
        assert meaning
        assert load_file(config.name, variant)
    with pytest.raises(InputError) as caught:
        load_file(config.name, "nonsense")
    assert all(variant in str(caught.value) for variant in config.variants)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_fields_have_a_meaning_that_a_program_can_read(kind):
    said = meanings(kind)
    assert not [field.name for field in dataclasses.fields(kind) if not said.get(field.name)]
