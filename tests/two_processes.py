"""A program that two processes run together over localhost, with two fake devices each."""

import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def lines_of(program: str, *words: str, timeout: int) -> list[list[str]]:
    """The lines that each of the two prints; asserts that both end well within `timeout` seconds.

    `program` is Python, which begins with hosts.join(); `words` are its arguments.
    """
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        meeting = f"localhost:{probe.getsockname()[1]}"
    environ = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": str(ROOT)}
    environ |= {"RQJAX_COORDINATOR": meeting, "RQJAX_PROCESSES": "2"}
    command = [sys.executable, "-c", program, *words]
    both = [
        subprocess.Popen(command, env=environ | {"RQJAX_PROCESS_ID": str(me)}, stdout=subprocess.PIPE, text=True)
        for me in range(2)
    ]
    try:
        lines = [process.communicate(timeout=timeout)[0].splitlines() for process in both]
        assert [process.returncode for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()
    return lines
