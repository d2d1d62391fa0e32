"""launch/tpu.sh: what it would do, and what it does when machines are taken away by a stand-in for the cloud."""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest

from tests.stand_in.launchers import ROOT, Cloud, check_out, wait_for

SEND = "-oConnectTimeout=15 -oServerAliveInterval=15 -oServerAliveCountMax=4"
MACHINE = ["--name", "rq", "--zone", "z", "--type", "v5litepod-16"]
QUICK = ["--poll", "1", "--patience", "1"]


@pytest.fixture
def checkout(tmp_path):
    return check_out(tmp_path / "checkout")


@pytest.fixture
def cloud(tmp_path, checkout):
    return Cloud(tmp_path / "cloud", checkout)


def everything(
    kind: str, create: list[str], look: str, tail: list[str], words: str, force: list[str]
) -> list[list[str]]:
    """The commands of a run without accidents."""

    def gcloud(verb, *rest):
        return ["gcloud", "compute", "tpus", kind, verb, *rest]

    common = tail[tail.index("--zone=z") :]
    unpack = "mkdir -p rqjax && rm -rf rqjax/rqjax rqjax/configs && tar -xzf rqjax.tar.gz -C rqjax"
    commands = [unpack] + [f"bash rqjax/launch/worker.sh {verb}" for verb in ("install", "sweep", f"start {words}")]
    return [
        ["mkdir", "-p", "build"],
        ["git", "archive", "--format=tar.gz", "--output=build/rq.tar.gz", "HEAD"],
        gcloud("create", "rq", "--accelerator-type=v5litepod-16", *create, *common),
        gcloud("describe", "rq", f"--format={look}", *common),
        gcloud("scp", "build/rq.tar.gz", "rq:rqjax.tar.gz", *tail),
        *(gcloud("ssh", "rq", f"--ssh-flag={SEND}", f"--command={command}", *tail) for command in commands),
        gcloud("delete", "rq", *force, *common),
    ]


def test_dry_run_prints_the_commands_and_calls_nothing(cloud):
    words = ["--dry_run", *MACHINE, "--workdir", "gs://bucket/a run", "--", "rqjax", "train", "--config.note=it's 5 $"]
    status, out = cloud.run(*words)
    sent = "train '--config.note=it'\\''s 5 $' '--workdir=gs://bucket/a run'"
    tail = ["--worker=all", "--zone=z", "--quiet"]
    expected = everything("tpu-vm", ["--version=v2-alpha-tpuv5-lite"], "value(state)", tail, sent, [])
    assert [shlex.split(line) for line in out.splitlines()] == expected
    assert status == 0
    # the shell of a worker reads back the very words
    assert shlex.split(sent) == ["train", "--config.note=it's 5 $", "--workdir=gs://bucket/a run"]
    assert cloud.calls() == []
    assert not (cloud.checkout / "build").exists()


def test_slices_go_through_the_queue_and_reach_every_worker(cloud):
    words = ["--dry_run", *MACHINE, "--workdir=gs://b/r", "--slices=2", "--spot", "--project=p", "--", "train"]
    status, out = cloud.run(*words)
    create = ["--runtime-version=v2-alpha-tpuv5-lite", "--node-count=2", "--node-prefix=rq", "--spot"]
    tail = ["--worker=all", "--node=all", "--batch-size=all", "--zone=z", "--project=p", "--quiet"]
    expected = everything(
        "queued-resources", create, "value(state.state)", tail, "train --workdir=gs://b/r", ["--force"]
    )
    assert [shlex.split(line) for line in out.splitlines()] == expected
    assert status == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dry_run", *MACHINE, "--"], "nothing to run"),
        (["--dry_run", *MACHINE, "train"], "unknown flag train"),
        (["--dry_run", "--zone", "z", "--", "train"], "--name is missing"),
        (["--dry_run", *MACHINE, "--slices", "two", "--", "train"], "expected a number"),
        (["--dry_run", *MACHINE, "--slices=0", "--", "train"], "at least 1"),
        (["--dry_run", *MACHINE, "--type=v9-8", "--", "train"], "no runtime image is known"),
        (["--dry_run", *MACHINE, "--", "train", "--workdir", "a"], "--workdir comes before --"),
        (["--dry_run", "--name"], "--name needs a value"),
    ],
)
def test_flags_that_cannot_be_meant_are_refused_in_one_line(words, message):
    result = subprocess.run(["bash", ROOT / "launch" / "tpu.sh", *words], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith("launch/tpu.sh: ")
    assert message in last


def test_shellcheck_finds_nothing():
    found = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    assert found, "no shellcheck: pip install -c constraints.txt -e '.[dev]' brings it"
    scripts = sorted(str(path) for path in (ROOT / "launch").glob("*.sh"))
    assert len(scripts) >= 3
    result = subprocess.run([found, *scripts, str(ROOT / ".ci" / "run")], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_a_failure_on_a_machine_that_is_well_ends_the_run_with_its_status(cloud):
    cloud.program("echo hello from $RQJAX_PROCESS_ID of $RQJAX_PROCESSES: $*; [ $RQJAX_PROCESS_ID = 0 ] || exit 3")
    status, out = cloud.run(*MACHINE, *QUICK, "--workdir=/w", "--", "train")
    assert status == 3
    assert "hello from 0 of 2: train --workdir=/w" in out
    assert "hello from 1 of 2: train --workdir=/w" in out
    assert "failed with status 3" in out
    assert cloud.verbs() == ["create", "scp", "ssh", "ssh", "ssh", "ssh", "delete"]
    assert cloud.gone()


@pytest.mark.slow
def test_a_preemption_in_the_queue_is_waited_out_and_a_notice_restarts_on_the_same_machine(cloud):
    """Three runs: both workers report a notice; then one machine is taken; then they succeed."""
    cloud.program(
        f"""cd {cloud.folder}
        echo x >> runs$RQJAX_PROCESS_ID
        case $(wc -l < runs$RQJAX_PROCESS_ID) in
          1) exit 75 ;;
          2) echo second; sleep 100 ;;
        esac
        """
    )
    cloud.events({"after": "second", "do": "preempt"})
    status, out = cloud.run(*MACHINE, *QUICK, "--slices=2", "--workdir=gs://b/r", "--", "train", timeout=120)
    assert status == 0, out
    attempt, install = ["ssh", "ssh"], ["scp", "ssh", "ssh"]
    whole = ["create", *install, *attempt, *attempt, "delete", "create", *install, *attempt, "delete"]
    assert cloud.verbs() == whole
    assert cloud.gone()
    assert {(cloud.folder / f"runs{me}").read_text() for me in range(2)} == {"x\n" * 3}


@pytest.mark.slow
def test_a_kept_machine_is_used_again_and_a_stranger_is_left_alone(cloud):
    cloud.program("true")
    assert cloud.run(*MACHINE, *QUICK, "--keep", "--", "train")[0] == 0
    assert not cloud.gone()
    status, out = cloud.run(*MACHINE, *QUICK, "--", "train")
    assert status == 2
    assert "there is a rq already" in out
    assert not cloud.gone()
    assert cloud.run(*MACHINE, *QUICK, "--keep", "--", "train")[0] == 0
    assert cloud.verbs().count("create") == 1
    assert cloud.verbs().count("delete") == 0


@pytest.mark.slow
def test_a_signal_to_the_launcher_deletes_the_machine(cloud):
    cloud.program(f"touch {cloud.folder}/runs; exec sleep 100")
    process = cloud.start(*MACHINE, *QUICK, "--", "train")
    wait_for(cloud.folder / "runs", process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert cloud.gone()


STEPS = 200
TRAIN = [
    "train",
    "--config=configs/quickstart.py:classifier",
    f"--config.steps={STEPS}",
    "--config.data.batch=16",
    "--config.stage.model.width=8",
    "--config.log_every=1",
    "--config.save_every=20",
    "--config.data.threads=1",
]


def metrics(workdir: pathlib.Path) -> dict[int, dict]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    return {line["step"]: line for line in lines}


@pytest.mark.slow
def test_a_training_run_survives_what_happens_to_its_machines(cloud, tmp_path):
    """Worker 1 is killed and the slice lost; on the next one a notice reaches one worker; the losses are those of the
    same run when nothing happens."""
    workdir, calm = tmp_path / "run", Cloud(tmp_path / "calm", cloud.checkout)
    for each in (cloud, calm):
        each.environ |= {"STAND_IN_RQJAX": f"{sys.executable} -m rqjax", "JAX_NUM_CPU_DEVICES": "2"}
    cloud.events(
        {"after": rf"step +3\d/{STEPS} ", "do": "preempt"},
        {"after": r"resumed at([\s\S]*?\nstep ){5}", "do": "terminate"},
    )
    status, out = cloud.run(*MACHINE, *QUICK, f"--workdir={workdir}", "--", *TRAIN, timeout=500)
    assert status == 0, out[-4000:]
    assert out.count("rq is lost: restart 1") == 1, out[-4000:]
    assert out.count("restart 2") == 1, out[-4000:]
    first, second = (int(step) for step in re.findall(r"resumed at step (\d+)", out))
    assert 0 < first < first + 5 <= second < STEPS
    assert first == 1 or first % 20 == 0, "from the last save that was due and done"
    assert second == int(re.search(r"told to leave, saved step (\d+)", out)[1])
    assert cloud.verbs().count("create") == cloud.verbs().count("delete") == 2
    assert cloud.gone()
    status, out = calm.run(*MACHINE, *QUICK, f"--workdir={tmp_path / 'straight'}", "--", *TRAIN, timeout=300)
    assert status == 0, out[-4000:]
    assert calm.verbs().count("create") == 1
    found, expected = metrics(workdir), metrics(tmp_path / "straight")
    for step in range(1, STEPS + 1):
        assert found[step]["loss"] == pytest.approx(expected[step]["loss"], rel=1e-6), step
