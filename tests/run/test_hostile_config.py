"""config.json of a model's folder from a stranger: read, or refused in one printable line that names the folder."""

import functools
import os
import time

import pytest

from rqjax.dq.patches import PatchDQVAEConfig
from rqjax.errors import InputError
from rqjax.rq.patches import PatchRQVAEConfig
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


STRANGE = (
    *(0, -1, 65, 1000, 2**14, 2**16, 2**24, 2**31, 10**18, 10**40, 1e308, True, None, "", [], [0] * 1000, [1] * 64),
    *([[[[]]]], [10**18, 10**18], [2**14, 2**14], [2**13, 2**14]),
)


def places(stored, path=()):
    """The path of every value in dictionaries inside each other."""
    for name, value in stored.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from places(value, (*path, name))


@pytest.mark.slow  # 15,000 readings, under the type checks of tests
@pytest.mark.parametrize(
    "variant", ["rqvae", "dqvae", "rqtransformer", "dqtransformer", "classifier", "patch_rqvae", "patch_dqvae"]
)
def test_a_strange_value_in_any_field_costs_little(variant):
    stored = to_dict(get_config(variant.removeprefix("patch_")))
    if variant.startswith("patch"):
        kind = PatchRQVAEConfig if variant == "patch_rqvae" else PatchDQVAEConfig
        stored["stage"]["model"] = to_dict(kind(resolution=stored["data"]["size"]))
    messages, slowest = [], 0.0
    for *parents, name in list(places(stored)):
        holder = functools.reduce(dict.__getitem__, parents, stored)
        kept = holder[name]
        for value in STRANGE:
            holder[name] = value
            begin = time.process_time()
            try:
                config = from_dict(stored)
                config.stage.model.check()
                config.check()
            except InputError as error:
                messages.append(str(error))
            slowest = max(slowest, time.process_time() - begin)
        holder[name] = kept
    assert len(messages) > 100
    assert all(map(str.isprintable, messages))
    assert slowest < 1


def test_sizes_have_limits():
    stored = to_dict(get_config("rqvae"))
    stored["stage"]["model"]["quantizer"]["depth"] = 10**12
    with pytest.raises(InputError, match=r"config.stage.model.quantizer.depth is 1000000000000: expected at most 64"):
        from_dict(stored)
    stored = to_dict(get_config("rqvae"))
    stored["stage"]["model"]["ch_mult"] = [1] * 1000
    with pytest.raises(InputError, match=r"config.stage.model.ch_mult has 1000 elements: expected at most 64"):
        from_dict(stored)
