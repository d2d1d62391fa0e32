"""How processes find each other, what they agree on, and how they leave: descriptions here, real processes below."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest
from absl import flags as absl_flags

from rqjax.errors import InputError
from rqjax.flags import processes
from rqjax.run import hosts
from rqjax.run.notice import Notice

NOTHING = (None, None, None)
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
}
SLICES = {"MEGASCALE_COORDINATOR_ADDRESS": "a:8081", "MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"}


def describe(given=NOTHING, environ=None, on_tpu=False):
    return hosts.meeting(given, environ or {}, on_tpu=on_tpu)


def ours(coordinator="a:1", processes="2", process_id="1"):
    return {"RQJAX_COORDINATOR": coordinator, "RQJAX_PROCESSES": processes, "RQJAX_PROCESS_ID": process_id}


def test_flags_come_before_variables_before_slurm_before_the_tpu():
    everything = ours("b:2", "4", "3") | SLURM
    assert describe(("a:1", 2, 1), everything, on_tpu=True) == {
        "coordinator_address": "a:1",
        "num_processes": 2,
        "process_id": 1,
    }
    assert describe(NOTHING, everything, on_tpu=True)["coordinator_address"] == "b:2"
    assert describe(NOTHING, SLURM, on_tpu=True) == {"cluster_detection_method": "slurm"}
    assert describe(NOTHING, {}, on_tpu=True) == {}
    assert describe() is None


def test_one_process_is_no_meeting():
    assert describe(("a:1", 1, 0)) is None
    assert describe(environ=ours(processes="1", process_id="0")) is None
    assert describe(environ=SLURM | {"SLURM_NTASKS": "1"}) is None
    batch_script = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}
    assert describe(environ=batch_script) is None


@pytest.mark.parametrize(
    ("environ", "alone"),
    [
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, False),
        ({"TPU_PROCESS_ADDRESSES": "a:1,b:1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a", **SLICES}, False),
        ({"TPU_SKIP_MDS_QUERY": "1"}, True),
    ],
)
def test_a_tpu_machine_says_whether_it_is_alone(environ, alone):
    assert describe(environ=environ, on_tpu=True) == (None if alone else {})
    assert describe(environ=environ, on_tpu=False) is None


@pytest.mark.parametrize("gone", SLICES)
def test_left_over_descriptions_of_slices_are_recognised(gone):
    left = {name: value for name, value in SLICES.items() if name != gone}
    with pytest.raises(InputError, match=r"MEGASCALE_.* describe no set of slices, .*: unset them"):
        describe(environ={"TPU_WORKER_HOSTNAMES": "a", **left}, on_tpu=True)
    assert describe(environ=left, on_tpu=False) is None


@pytest.mark.parametrize(
    ("given", "environ", "words"),
    [
        (("a:1", 2, None), {}, "--process_id missing"),
        ((None, None, 0), {}, "--coordinator, --processes missing"),
        (("a:1", 2, 2), {}, "expected 0 <= id < processes"),
        (("a:1", 2, -1), {}, "expected 0 <= id < processes"),
        (("a:1", 0, 0), {}, "expected 0 <= id < processes"),
        (("a", 2, 0), {}, "expected HOST:PORT"),
        ((":80", 2, 0), {}, "expected HOST:PORT"),
        (NOTHING, {"RQJAX_PROCESSES": "2"}, "RQJAX_COORDINATOR, RQJAX_PROCESS_ID missing"),
        (NOTHING, ours(processes="two"), "expected numbers"),
        # half of each is not a description: the flags are taken for what was meant
        (("a:1", None, None), ours(), "--processes, --process_id missing"),
        (NOTHING, {"SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "n1"}, "SLURM_JOB_ID, SLURM_PROCID, SLURM_LOCALID"),
        (NOTHING, SLURM | {"SLURM_NTASKS": "2(x3)"}, "expected a number"),
    ],
)
def test_a_description_that_cannot_be_meant_is_refused_in_one_line(given, environ, words):
    with pytest.raises(InputError, match=words) as error:
        describe(given, environ)
    assert "\n" not in str(error.value)


def test_one_process_joins_nobody_and_is_the_primary():
    hosts.join()
    assert hosts.primary()


def test_leaving_alone_is_an_ordinary_exit(capsys):
    with pytest.raises(SystemExit) as exit_:
        hosts.leave(3, InputError("no such thing"))
    assert exit_.value.code == 3
    assert "no such thing" in capsys.readouterr().err


# Real processes. This file is the program of each: it joins, and then steps until it is told to end.


def program(mode: str, folder: pathlib.Path) -> None:
    from absl import flags

    from rqjax.flags import processes

    values = flags.FlagValues()
    processes.define(values)
    values([sys.argv[0], *sys.argv[3:]])
    hosts.join(values)
    import jax

    me, others = jax.process_index(), jax.process_count()
    end = None
    with Notice() as notice:
        (folder / f"ready{me}").touch()
        for step in range(1, 100_000):
            time.sleep(0.05 if me else 0.02)  # no two hosts run in step
            if mode == "fail" and me == 1 and (folder / "now").exists():
                hosts.leave(3, ValueError("one of two has failed"))
            if notice.reached(step):
                end = step
                break
    result = {"processes": others, "devices": jax.device_count(), "end": end}
    (folder / f"result{me}.json").write_text(json.dumps(result | {"primary": hosts.primary()}))
    sys.exit(hosts.RESTART)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def launch(mode: str, how: str, folder: pathlib.Path) -> list[subprocess.Popen]:
    port, started = free_port(), []
    for me in range(2):
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_FLAGS", "SLURM_", "RQJAX_"))}
        environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
        words = [sys.executable, "-m", "tests.run.test_hosts", mode, str(folder)]
        if how == "flags":
            words += [f"--coordinator=localhost:{port}", "--processes=2", f"--process_id={me}"]
        if how == "variables":
            environ |= ours(f"localhost:{port}", "2", str(me))
        if how == "slurm":
            environ |= SLURM | {"SLURM_PROCID": str(me), "SLURM_LOCALID": str(me), "JAX_COORDINATOR_PORT": str(port)}
        started.append(subprocess.Popen(words, env=environ, cwd=pathlib.Path(__file__).parents[2]))
    deadline = time.monotonic() + 60
    while not all((folder / f"ready{me}").exists() for me in range(2)):
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in started)
        time.sleep(0.1)
    return started


@pytest.mark.slow
@pytest.mark.parametrize("how", ["flags", "variables", "slurm"])
def test_a_notice_to_one_process_ends_both_after_the_same_step(how, tmp_path):
    started = launch("run", how, tmp_path)
    started[1].send_signal(signal.SIGTERM)
    assert [process.wait(60) for process in started] == [hosts.RESTART] * 2
    first, second = (json.loads((tmp_path / f"result{me}.json").read_text()) for me in range(2))
    assert first.pop("primary")
    assert not second.pop("primary")
    assert first == second
    assert first["end"] is not None
    assert first | {"end": 0} == {"processes": 2, "devices": 4, "end": 0}


@pytest.mark.slow
def test_one_that_fails_keeps_its_status_and_takes_the_others_with_it(tmp_path):
    started = launch("fail", "variables", tmp_path)
    (tmp_path / "now").touch()
    assert started[1].wait(20) == 3
    assert started[0].wait(120) != 0
    assert not (tmp_path / "result0.json").exists()


if __name__ == "__main__":
    program(sys.argv[1], pathlib.Path(sys.argv[2]))


@pytest.mark.parametrize(
    ("environ", "expected"),
    [({}, (0, 1)), (ours("a:1", "4", "3"), (3, 4)), (SLURM, (1, 2)), (SLURM | {"SLURM_NTASKS": "1"}, (0, 1))],
    ids=["alone", "variables", "slurm", "one task"],
)
def test_processes_that_share_out_work_need_not_meet(monkeypatch, environ, expected):
    values = absl_flags.FlagValues()
    processes.define(values)
    values(["rqjax"])
    for name in [name for name in os.environ if name.startswith(("SLURM_", "RQJAX_", "JAX_LOCAL"))]:
        monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    said = {}
    monkeypatch.setattr(hosts.jax.config, "update", said.__setitem__)
    assert hosts.share(values) == expected
    assert said == ({"jax_cuda_visible_devices": "1"} if environ is SLURM else {})  # as where they meet: a card a task
    assert not jax.distributed.is_initialized()
