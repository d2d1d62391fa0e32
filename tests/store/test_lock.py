"""A run directory has one process at a time, and a dead one lets go of it."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import time

import pytest
from etils import epath

from rqjax.errors import InputError
from rqjax.store import lock
from rqjax.store.lock import Holder, locked

ROOT = pathlib.Path(__file__).parents[2]
HOLD = """
import pathlib, sys
from rqjax.store.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """A process that holds the lock of tmp_path / "run"."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        assert process.stdout.readline() == b"in\n"
        yield process
        process.kill()


def test_the_holder_is_named_and_nothing_changes(other, tmp_path):
    before = (tmp_path / "run" / "lock").read_bytes()
    with pytest.raises(InputError, match=rf"run is in use by process {other.pid} on .*, since 20.*: wait for its end"):  # noqa: SIM117
        with locked(tmp_path / "run"):
            pass
    assert (tmp_path / "run" / "lock").read_bytes() == before


def test_a_killed_holder_lets_go_at_once(other, tmp_path):
    other.kill()
    other.wait()
    with locked(tmp_path / "run"):
        assert Holder.read(tmp_path / "run" / "lock").pid == os.getpid()
    assert not (tmp_path / "run" / "lock").exists()


def test_a_folder_made_for_nothing_goes_again_and_others_stay(tmp_path):
    with locked(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / "lock").is_file()
    assert not (tmp_path / "a" / "b").exists()
    with locked(tmp_path / "c"):
        (tmp_path / "c" / "result").touch()
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["result"]
    with locked(tmp_path / "a"):
        pass
    assert (tmp_path / "a").is_dir()


def test_one_process_holds_it_once(tmp_path):
    with locked(tmp_path), pytest.raises(InputError, match="is in use by process"), locked(tmp_path):
        pass


@pytest.mark.parametrize("name", ["file", "file/below", "/proc/rqjax/run", "x" * 300])
def test_no_folder_can_be_there(name, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be a run directory .*: choose another --workdir"):  # noqa: SIM117
        with locked(tmp_path / name):
            pass


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A folder that stands for one in a bucket, where no system keeps locks."""
    monkeypatch.setattr(lock, "in_bucket", lambda path: True)
    monkeypatch.setattr(lock, "BEAT", 0.01)
    return epath.Path(tmp_path)


def elsewhere(seconds):
    """A process of another machine that was heard of so many seconds ago."""
    return dataclasses.replace(Holder.me(), host="elsewhere", pid=7, seen=time.time() - seconds)


def test_a_bucket_has_a_file_that_is_renewed(bucket):
    with locked(bucket):
        first = Holder.read(bucket / "lock")
        while Holder.read(bucket / "lock").seen == first.seen:
            time.sleep(0.01)
        assert dataclasses.replace(Holder.read(bucket / "lock"), seen=first.seen) == first
    assert not (bucket / "lock").exists()


def test_in_a_bucket_silence_and_a_dead_process_let_go(bucket):
    died = subprocess.Popen(["true"])
    died.wait()
    for holder in (elsewhere(lock.SILENCE + 1), dataclasses.replace(Holder.me(), pid=died.pid)):
        holder.write(bucket / "lock")
        with locked(bucket):
            pass
    for holder in (elsewhere(1), dataclasses.replace(Holder.me(), pid=1)):
        holder.write(bucket / "lock")
        with pytest.raises(InputError, match=rf"in use by process {holder.pid} .*delete .*lock, or wait 150 s"):  # noqa: SIM117
            with locked(bucket):
                pass
