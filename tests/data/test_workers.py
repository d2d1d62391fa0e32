"""Workers end with the process that asked for their batches."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import multiprocessing
from rqjax.data.pipeline import DataConfig, rows_of_batches

if __name__ == "__main__":
    stream = rows_of_batches(DataConfig(name="synthetic", size=8, batch=2, workers=2, threads=1), [0, 1])
    next(stream)
    print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
    while True:
        next(stream)
"""


def ended(number):
    try:
        return pathlib.Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.slow
def test_no_worker_and_no_shared_memory_outlives_a_killed_parent(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    before = set(os.listdir("/dev/shm"))
    environ = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen([sys.executable, program], env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            workers = [int(word) for word in process.stdout.readline().split()]
        finally:
            process.send_signal(signal.SIGKILL)
    assert len(workers) == 2
    end = time.monotonic() + 30
    while not all(map(ended, workers)) or set(os.listdir("/dev/shm")) - before:
        assert time.monotonic() < end, (workers, set(os.listdir("/dev/shm")) - before)
        time.sleep(0.1)
