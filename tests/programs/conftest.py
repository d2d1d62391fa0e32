"""The console script, called as a person calls it."""

import sys

import pytest

from rqjax import __main__ as console


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs one line of the console script; returns (exit status, standard output, standard error)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["rqjax", *map(str, words)])
        status = 0
        try:
            console.main()
        except SystemExit as stop:
            status = stop.code
        out = capsys.readouterr()
        return status, out.out, out.err

    return run
