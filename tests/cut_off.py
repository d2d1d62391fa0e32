"""An end half-way: Ctrl-C while a file of arrays is written."""

import pytest

from rqjax.store import outputs


def cut_off_at(count: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are written from now on: the `count`th of them meets a KeyboardInterrupt instead."""
    write_arrays, calls = outputs.write_arrays, []

    def fails_at_that(path, **arrays):
        calls.append(path.name)
        if len(calls) == count:
            raise KeyboardInterrupt
        write_arrays(path, **arrays)

    monkeypatch.setattr(outputs, "write_arrays", fails_at_that)
    return calls
