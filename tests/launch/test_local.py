"""launch/local.sh --processes, with a shell script for rqjax, so that nothing is installed."""

import os
import signal
import subprocess
import sys

import pytest

from tests.stand_in.launchers import check_out, wait_for


@pytest.fixture
def local(tmp_path):
    checkout = check_out(tmp_path / "checkout")
    binaries = checkout / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python").symlink_to(sys.executable)
    stamp = (checkout / "constraints.txt").read_bytes() + (checkout / "pyproject.toml").read_bytes()
    (checkout / ".venv" / "installed").write_bytes(stamp)

    def start(program: str, *words: str, **environ: str) -> subprocess.Popen:
        (binaries / "rqjax").write_text("#!/usr/bin/env bash\n" + program)
        (binaries / "rqjax").chmod(0o755)
        command = ["bash", str(checkout / "launch" / "local.sh"), *words]
        return subprocess.Popen(
            command, env=dict(os.environ, **environ), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return start


def test_local_processes_share_a_port_and_say_who_they_are(local):
    program = 'echo "$RQJAX_PROCESS_ID/$RQJAX_PROCESSES on $JAX_NUM_CPU_DEVICES at $RQJAX_COORDINATOR: $*"'
    process = local(program, "--processes", "2", "train", "--flag=a b", DEVICES="4")
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    lines = sorted(out.splitlines())
    port = lines[0].split(":")[1]
    assert port.isdigit()
    assert lines == [f"[{me}] {me}/2 on 4 at localhost:{port}: train --flag=a b" for me in range(2)]


def test_local_processes_restart_on_75_and_end_on_the_first_failure(local, tmp_path):
    program = f"""cd {tmp_path}
        echo x >> runs$RQJAX_PROCESS_ID
        [ $(wc -l < runs$RQJAX_PROCESS_ID) != 1 ] || exit 75
        [ $RQJAX_PROCESS_ID = 0 ] || exit 4
        exec sleep 100
        """
    process = local(program, "--processes=2", "train")
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 4
    assert out.count("restarting") == 1
    assert {(tmp_path / f"runs{me}").read_text() for me in range(2)} == {"x\n" * 2}


def test_local_processes_hear_a_sigterm_and_are_not_restarted_after_it(local, tmp_path):
    program = f"""trap 'echo saved; exit 75' TERM
        touch {tmp_path}/ready$RQJAX_PROCESS_ID
        while true; do sleep 0.1; done
        """
    process = local(program, "--processes", "2", "train")
    for me in range(2):
        wait_for(tmp_path / f"ready{me}", process)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 75
    assert sorted(out.splitlines()) == ["[0] saved", "[1] saved"]
