"""Signals: a run that is told to leave saves first, and one that has nothing to save ends at once."""

import os
import pathlib
import signal
import subprocess
import sys
import types

import pytest

from rqjax.errors import Interrupted
from rqjax.programs.train import train
from rqjax.run.directory import Run
from rqjax.run.log import Log
from rqjax.run.notice import Notice
from tests.configs.tiny import get_config

ROOT = pathlib.Path(__file__).parents[2]
BUSY = """
import hashlib, os, signal, sys
from rqjax.run.notice import Notice
with Notice() as notice:
    notice.steps = int(sys.argv[1])
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 500_000_000)  # minutes without Python, as a compiler is
"""


@pytest.fixture(autouse=True)
def default_signals():
    """A shell's background jobs, and those of nohup, are started with signals ignored, which a run respects."""
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_is_noted_and_its_handler_taken_back(number):
    before = signal.getsignal(number)
    with Notice() as notice:
        notice.steps = 1
        assert not notice.reached(1)
        os.kill(os.getpid(), number)
        assert notice.reached(2)
        assert notice.interrupted == (number == signal.SIGINT)
    assert signal.getsignal(number) == before


def test_a_signal_that_was_to_be_ignored_is(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Notice() as notice:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not notice.reached(1)
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("steps", "presses", "words"), [(0, 1, "before its first step"), (3, 2, "last whole checkpo")])
def test_nothing_keeps_a_process_that_has_nothing_to_save(steps, presses, words):
    command = [sys.executable, "-c", BUSY, str(steps)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        assert process.stdout.readline() == "ready\n"
        for press in range(presses):
            if press:
                with pytest.raises(subprocess.TimeoutExpired):  # the first is but noted
                    process.wait(0.5)
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        err = process.stderr.read().strip()
    assert words in err
    assert err.count("\n") == 0


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path, monkeypatch):
    written = Log.scalars

    def pressed(self, step, metrics):
        values = written(self, step, metrics)
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return values

    config = get_config("classifier")
    config.steps, config.log_every, config.save_every = 4, 1, 100
    with monkeypatch.context() as patch:
        patch.setattr(Log, "scalars", pressed)
        with pytest.raises(Interrupted, match="saved step 2; the same command goes on"):
            train(config, tmp_path)
    assert Run.open(tmp_path).step == 2
    assert not (tmp_path / "lock").exists()
    assert int(train(config, tmp_path).step) == 4


def test_a_run_outlives_its_terminal(tmp_path, monkeypatch):
    def gone(_):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", types.SimpleNamespace(write=gone, flush=lambda: None, isatty=lambda: False))
    log = Log(tmp_path, start=0, steps=2, images_per_step=1)
    log.say("nobody reads this")
    log.scalars(1, {"loss": 1.0})
    log.close()
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1
