"""One of two real training processes is killed with `kill -9`: the launcher ends the other, and the same command goes
on as if nothing had been.
"""

import os
import pathlib
import signal
import sys
import time

import jax
import pytest

from rqjax.store import stored
from tests.configs.tiny import get_config
from tests.conftest import equal
from tests.launch.test_local import gone
from tests.run.test_faults import losses, until
from tests.run.test_killed_saves import arrays
from tests.stand_in.launchers import ROOT

pytestmark = pytest.mark.slow

STEPS = 24
GRACE = 5
"""Seconds that the launcher gives a process to end by itself; this one cannot, as it waits for the dead one."""
LATER = 10
"""Seconds for the launcher to notice, twice five looks a second, and for a busy machine to run it."""
PROGRAM = f"""echo $$ > $PIDS/pid$RQJAX_PROCESS_ID
exec {sys.executable} -m rqjax "$@"
"""


def command(folder: pathlib.Path) -> list[str]:
    config = f"--config={ROOT / 'tests' / 'configs' / 'tiny.py'}:classifier"
    flags = {"steps": STEPS, "mesh": "2x1", "save_every": 1, "log_every": 1, "data.batch": 8}
    given = [f"--config.{name}={value}" for name, value in flags.items()]
    return ["--processes=2", "train", config, f"--workdir={folder}", *given]


def whole(folder: pathlib.Path) -> dict[str, object]:
    """All arrays of the newest checkpoint, read with their digests."""
    return arrays(folder, jax.eval_shape(get_config("classifier").stage.build(STEPS).init, jax.random.key(0)))


def test_one_of_two_processes_is_killed_and_the_same_command_goes_on(local, tmp_path, monkeypatch, figures):
    for name, value in {"PYTHONPATH": str(ROOT), "PIDS": str(tmp_path), "GRACE": str(GRACE)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("XLA_FLAGS")  # each process has the one device that the launcher gives it
    killed, alone = tmp_path / "killed", tmp_path / "alone"
    process = local(PROGRAM, *command(killed))
    until(process, lambda: (killed / stored.FOLDER / "4").is_dir())
    numbers = [int((tmp_path / f"pid{me}").read_text()) for me in range(2)]
    os.kill(numbers[1], signal.SIGKILL)
    start = time.monotonic()
    said, _ = process.communicate(timeout=GRACE + LATER)
    took = time.monotonic() - start
    gone(numbers)
    assert process.returncode == 128 + signal.SIGKILL
    assert "restarting" not in said
    left = stored.find(killed).step
    assert 4 <= left < STEPS
    assert int(whole(killed)["step"]) == left  # nothing half-written has the name of a checkpoint

    for folder in (killed, alone):
        process = local(PROGRAM, *command(folder))
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said
    assert equal(whole(killed), whole(alone))
    assert losses(killed, STEPS) == losses(alone, STEPS)
    figures("one of two processes killed", f"all ended {took:.1f} s later; from step {left} on equal bit for bit")
