import glob
import os
import subprocess
import sys

import pytest

from rqjax.run import host_memory

SIZE = 2**27
PROGRAM = f"""
import resource, sys
from rqjax.run import host_memory
if sys.argv[1] == "keep" and not host_memory.keep_freed():
    sys.exit(7)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(b"1") * {SIZE}
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), faults())
"""


def faults(word: str) -> tuple[int, int]:
    """Pages that the first and the second use of the same bytes took."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", PROGRAM, word]
    done = subprocess.run(command, env=clean | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    if done.returncode == 7:
        pytest.skip("this C library is not GNU's")
    first, second = map(int, done.stdout.split())
    return first, second


def test_what_is_freed_is_there_for_the_next():
    first, second = faults("keep")
    if first < SIZE / 2**16:
        pytest.skip("this system has large pages for all")
    assert second < first / 10
    assert faults("leave")[1] > first / 2


@pytest.mark.parametrize(
    ("asked", "files", "expected"),
    [
        ("cpu", ["/dev/nvidia0"], True),
        ("tpu", [], False),
        ("", [], True),
        (None, [], True),
        (None, ["/dev/accel0"], False),
    ],
)
def test_a_machine_with_an_accelerator_stays_as_it_is(monkeypatch, asked, files, expected):
    monkeypatch.setattr(glob, "glob", lambda pattern: [x for x in files if x.startswith(pattern.rstrip("*[0-9]"))])
    if asked is None:
        monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    else:
        monkeypatch.setenv("JAX_PLATFORMS", asked)
    assert host_memory.only_cpu() is expected


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_an_environment_that_tunes_memory_itself_stays_in_force(monkeypatch, name):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv(name, "")
    assert not host_memory.keep_freed()


def test_training_keeps_it_before_jax_is_there():
    program = (
        "import sys; from rqjax.run import host_memory; from rqjax.__main__ import main;"
        "host_memory.keep_freed = lambda: print('kept', 'jax' in sys.modules);"
        "sys.argv = ['rqjax', sys.argv[1]]; main()"
    )
    said = {}
    for verb in ("train", "report"):
        done = subprocess.run([sys.executable, "-c", program, verb], capture_output=True, text=True)
        said[verb] = done.stdout
    assert said == {"train": "kept False\n", "report": ""}
