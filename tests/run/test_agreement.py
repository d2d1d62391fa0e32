"""Processes with other settings are told so, each of them."""

import json
import types

import numpy as np
import pytest

from rqjax.errors import InputError
from rqjax.run import agreement


def told(monkeypatch, *settings, me):
    """What process `me` is told, of several that have these settings; None if nothing."""
    texts = [json.dumps(one, sort_keys=True).encode() for one in settings]

    def gather(own):
        """All processes' arrays, of which this one's is known: digests first, then texts of one length."""
        if own.dtype == np.uint32:
            return np.array([[agreement.zlib.crc32(text), len(text)] for text in texts], np.uint32)
        length = max(map(len, texts))
        assert bytes(own) == texts[me].ljust(length, b"\0")
        return np.stack([np.frombuffer(text.ljust(length, b"\0"), np.uint8) for text in texts])

    monkeypatch.setattr(agreement, "jax", types.SimpleNamespace(process_count=lambda: 3, process_index=lambda: me))
    monkeypatch.setattr(agreement, "multihost_utils", types.SimpleNamespace(process_allgather=gather))
    monkeypatch.setattr(agreement, "LAST", 0)
    try:
        agreement.check_same(settings[me])
    except InputError as error:
        return str(error)
    return None


def test_a_field_that_differs_is_named_in_every_process(monkeypatch):
    one, other = {"config": {"steps": 12, "mesh": "1x1"}}, {"config": {"steps": 1600, "mesh": "1x1"}}
    lines = {told(monkeypatch, one, one, other, me=me) for me in range(3)}
    assert lines == {
        "the processes of this run disagree: config.steps is 12 in process 0 and 1600 in process 2: start all with the"
        " same flags"
    }


@pytest.mark.parametrize("me", range(3))
def test_equal_settings_pass(monkeypatch, me):
    one = {"workdir": "a", "config": {"steps": 12}}
    assert told(monkeypatch, one, dict(reversed(one.items())), one, me=me) is None


def test_one_process_has_nobody_to_ask():
    agreement.check_same({"a": object()})
