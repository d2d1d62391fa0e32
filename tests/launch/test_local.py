"""launch/local.sh, with shell scripts for rqjax, pip and nvidia-smi, so that nothing is installed."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.launch.conftest import check_out
from tests.stand_in.launchers import wait_for

SHORT = {"PATIENCE": "1", "GRACE": "1"}
"""Seconds of the launcher, so that tests are."""


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


PYTHON = f"""#!/usr/bin/env bash
# Python, as far as launch/local.sh needs it: `-m venv` makes a folder whose pip says what it is to install
if [ "$1 $2" = "-c import ensurepip, venv" ]; then exit "${{NO_ENSUREPIP:-0}}"; fi
if [ "$1 $2" != "-m venv" ]; then exec {sys.executable} "$@"; fi
mkdir -p "$3/bin"
printf '%s\\n' '#!/usr/bin/env bash' 'echo "pip ${{@:3}}"' > "$3/bin/python"
printf '%s\\n' '#!/usr/bin/env bash' 'echo "$(pwd -P): $*"' > "$3/bin/rqjax"
chmod +x "$3/bin/python" "$3/bin/rqjax"
"""


@pytest.fixture
def bare(tmp_path):
    """A callable that runs local.sh of a checkout without .venv from a folder beside it; (status, output)."""
    checkout = check_out(tmp_path / "checkout")
    tools = tmp_path / "tools"
    tools.mkdir()
    caller = tmp_path / "elsewhere"
    caller.mkdir()

    def run(*words: str, driver: str = "", **environ: str) -> tuple[int, str]:
        answer = f"echo {driver}" if driver else "exit 9"
        for name, text in (("python", PYTHON), ("nvidia-smi", f"#!/usr/bin/env bash\n{answer}\n")):
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        path = f"{tools}:{os.environ['PATH']}"
        at = next(folder for folder in tmp_path.iterdir() if (folder / "launch").is_dir())
        done = subprocess.run(
            ["bash", str(at / "launch" / "local.sh"), *words],
            env=dict(os.environ, PATH=path, PYTHON=str(tools / "python"), **environ),
            cwd=caller,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout + done.stderr

    run.checkout, run.caller = checkout, caller
    return run


@pytest.mark.parametrize(
    ("words", "driver", "extra"),
    [
        (["sample"], "", ""),
        (["sample"], "580.65.06", "[cuda13]"),
        (["sample"], "535.104", "[cuda12]"),
        (["compile"], "580.65.06", "[compile]"),
        (["demo"], "", "[demo]"),
        (["demo"], "580.65.06", "[demo,cuda13]"),
        (["--processes", "2", "train"], "580.65.06", ""),
    ],
)
def test_local_installs_what_a_word_needs_on_this_machine_once(bare, words, driver, extra):
    status, out = bare(*words, driver=driver)
    assert status == 0, out
    [installed] = [line for line in out.splitlines() if line.startswith("pip ")]
    assert installed.endswith(f"-c {bare.checkout}/constraints.txt -e {bare.checkout}{extra}")
    status, out = bare(*words, driver=driver)
    assert (status, "pip " in out) == (0, False)
    (bare.checkout / "constraints.txt").write_text("jax==1\n")
    assert "pip install" in bare(*words, driver=driver)[1]


def test_local_keeps_relative_paths_those_of_its_caller(bare):
    assert f"{bare.caller}: train --workdir runs/a" in bare("train", "--workdir", "runs/a")[1]


def test_local_notices_that_a_checkout_was_moved(bare, tmp_path):
    bare("sample")
    bare.checkout.rename(tmp_path / "moved")
    (tmp_path / "moved" / ".venv" / "old").touch()
    assert f"-e {tmp_path}/moved" in bare("sample")[1]
    assert not (tmp_path / "moved" / ".venv" / "old").exists()
    assert "pip" not in bare("sample")[1]


def test_local_says_that_python_has_no_ensurepip(bare):
    status, out = bare("sample", NO_ENSUREPIP="1")
    assert status == 2
    assert out.count("\n") == 1
    assert "no ensurepip): install it" in out


DEAF = """trap '' TERM
    echo $$ > {folder}/pid$RQJAX_PROCESS_ID
    while true; do sleep 0.1; done
    """


def pids(folder, process):
    """Those of two deaf processes, once both run."""
    for me in range(2):
        wait_for(folder / f"pid{me}", process)
    time.sleep(0.2)
    return [int((folder / f"pid{me}").read_text()) for me in range(2)]


def gone(numbers, seconds=15):
    end = time.monotonic() + seconds
    while any(pathlib.Path(f"/proc/{number}").exists() for number in numbers):
        assert time.monotonic() < end, "still running"
        time.sleep(0.1)


def test_a_process_that_hangs_when_another_asks_for_a_restart_is_ended(local, tmp_path):
    program = f"""cd {tmp_path}
        [ ! -e again$RQJAX_PROCESS_ID ] || exit 0
        touch again$RQJAX_PROCESS_ID
        [ $RQJAX_PROCESS_ID = 1 ] || exit 75
        """
    process = local(program + DEAF.format(folder=tmp_path), "--processes=2", "train", **SHORT)
    out, _ = process.communicate(timeout=40)
    assert (process.returncode, out.count("restarting")) == (0, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_processes_deaf_to_a_signal_are_ended(local, tmp_path, number):
    process = local(DEAF.format(folder=tmp_path), "--processes=2", "train", **SHORT)
    numbers = pids(tmp_path, process)
    process.send_signal(number)
    out, _ = process.communicate(timeout=40)
    assert process.returncode == 137
    assert "restarting" not in out
    gone(numbers)


def test_no_process_outlives_a_launcher_that_is_killed(local, tmp_path):
    process = local(DEAF.format(folder=tmp_path), "--processes=2", "train", **SHORT)
    numbers = pids(tmp_path, process)
    process.kill()
    process.wait()
    gone(numbers)
