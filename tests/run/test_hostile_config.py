"""config.json of a model's folder from a stranger: read, or refused in one printable line that names the folder."""

import os

import pytest

from rqjax.errors import InputError
from rqjax.run.config import from_dict, to_dict
from rqjax.run.directory import Run
from tests.configs.tiny import get_config

TEXTS = {
    "brackets": "[" * 100_000,
    "nested sections": '{"type": "Config", "model": ' * 400 + "1" + "}" * 400,
    "no text": b"\xff\xfe",
    "a long number": '{"type": ' + "9" * 5000 + "}",
    "a list": "[]",
    "long": "{" + " " * 2**20 + "}",
    "a type of brackets": '{"type": []}',
    "a name that moves the cursor": '{"type": "\\u001b[2J\\u202e"}',
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("kind", TEXTS)
def test_no_text_is_a_traceback(folder, kind):
    text = TEXTS[kind]
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=str(folder)) as caught:
        Run.open(folder).config  # noqa: B018
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_what_is_no_regular_file_is_not_waited_for(folder):
    os.mkfifo(folder / "config.json")
    with pytest.raises(InputError, match="a pipe, expected a regular file"):
        Run.open(folder).config  # noqa: B018


def test_types_are_those_of_the_annotations(folder):
    stored = to_dict(get_config("rqvae"))
    stored["stage"]["model"]["ch"] = "32"
    with pytest.raises(InputError, match=r"config.stage.model.ch is '32': expected a whole number"):
        from_dict(stored)
    stored = to_dict(get_config("rqvae"))
    stored["stage"]["model"] = stored["data"]
    with pytest.raises(InputError, match=r"config.stage.model is DataConfig.*expected a TokenizerConfig"):
        from_dict(stored)
