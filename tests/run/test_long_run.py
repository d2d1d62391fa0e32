"""Two thousand steps, with previews and saves, hold no more memory and no more open files than two hundred."""

import os
import pathlib
import subprocess
import sys
import time

import jax
import pytest

from rqjax.store import stored
from tests.configs.smallest import get_config

pytestmark = pytest.mark.slow

HERE = pathlib.Path(__file__).parents[1]
STEPS, SETTLED = 2000, 200
"""Behind the first 200 steps everything has been compiled, previewed and saved some times."""
SAVE_EVERY, PREVIEW_EVERY = 5, 50
HEAP = 2**26
"""Bytes of one heap of glibc's malloc, by which each thread's arena grows on 64 bits (HEAP_MAX_SIZE). What is freed in
its middle stays resident: as threads of saves come and go, that much may be added without a leak. One copy of the state
that each save left behind would be more, which the test asserts."""


def measured(process: subprocess.Popen) -> tuple[int, int]:
    """Resident bytes and open descriptors of a process."""
    place = pathlib.Path(f"/proc/{process.pid}")
    resident = int((place / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident, len(os.listdir(place / "fd"))


def watched(process: subprocess.Popen, metrics: pathlib.Path) -> dict[int, tuple[int, int]]:
    """What is measured while the process works, by step; several times in a step, the first counts."""
    found = {}
    while process.poll() is None:
        step = metrics.read_bytes().count(b"\n") if metrics.is_file() else 0
        try:
            found.setdefault(step, measured(process))
        except (OSError, IndexError):  # it has just ended
            break
        time.sleep(0.01)
    return found


def test_memory_and_descriptors_stay_what_they_were_after_the_first_steps(tmp_path, figures):
    folder, config = tmp_path / "run", f"--config={HERE / 'configs' / 'smallest.py'}:rqvae"
    flags = {"steps": STEPS, "save_every": SAVE_EVERY, "preview_every": PREVIEW_EVERY, "log_every": 1, "mesh": "1x1"}
    words = [config, f"--workdir={folder}", *(f"--config.{name}={value}" for name, value in flags.items())]
    environ = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    with subprocess.Popen(
        [sys.executable, "-m", "rqjax", "train", *words], env=environ, cwd=HERE.parent, stdout=subprocess.DEVNULL
    ) as process:
        try:
            found = watched(process, folder / "metrics.jsonl")
        finally:
            process.kill()
    assert process.returncode == 0
    assert stored.find(folder).step == STEPS

    state = jax.eval_shape(get_config().stage.build(STEPS).init, jax.random.key(0))
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves([state.model, state.optimizer]))
    assert (STEPS - SETTLED) // SAVE_EVERY * size > HEAP
    # the most at first and the least at last: a save or a preview that is under way is in the one, and not in the other
    first = [found[step] for step in found if 0 < step <= SETTLED]
    last = [found[step] for step in found if STEPS - SETTLED < step < STEPS]
    (memory, files), (memory_then, files_then) = map(max, zip(*first, strict=True)), map(min, zip(*last, strict=True))
    mib = f"{memory / 2**20:.0f} MiB up to step {SETTLED}, {memory_then / 2**20:.0f} at last"
    figures(
        f"{STEPS} steps, {STEPS // SAVE_EVERY} saves, {STEPS // PREVIEW_EVERY} previews",
        f"{mib}; {files} and {files_then} descriptors",
    )
    assert memory_then - memory < HEAP
    assert files_then <= files
