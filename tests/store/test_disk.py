"""A disk that is full, a quota that is used up, a file that may not grow: one line, and the last checkpoint whole."""

import errno
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from rqjax.errors import InputError, RunError
from rqjax.run.directory import Run
from rqjax.run.log import read_metrics
from rqjax.store import checkpoint, disk
from rqjax.store.arrays import to_arrays

HERE = pathlib.Path(__file__).parents[1]
TENSORSTORE = "RESOURCE_EXHAUSTED: Error writing \"model/0\": Failed to write 5 bytes: {} [os_error_code='{}']"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "a/b"), "the quota of the disk is used up"),
        (OSError(errno.EFBIG, "File too large"), "a file would be larger than allowed"),
        (OSError(errno.EROFS, "Read-only file system"), "the disk is read-only"),
        (OSError(errno.EIO, "Input/output error"), "the disk fails"),
        (ValueError(TENSORSTORE.format("No space left on device", 28)), "the disk is full"),
        (ValueError(TENSORSTORE.format("Disk quota exceeded", 122)), "the quota of the disk is used up"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "the folder is gone"),
        (ValueError("PERMISSION_DENIED: the bucket is not yours\nmore"), "the storage refuses"),
    ],
)
def test_what_a_disk_says_becomes_one_line(error, words, tmp_path):
    with pytest.raises(RunError, match=f"cannot save step 7: {words}") as caught:  # noqa: SIM117
        with checkpoint.failing_disk(tmp_path, lambda: "cannot save step 7", writing=True):
            raise error
    assert "\n" not in str(caught.value)
    assert "there is no whole checkpoint" in str(caught.value)


@pytest.mark.parametrize(
    "error", [ValueError("shapes differ"), FileNotFoundError(errno.ENOENT, "no data"), RuntimeError("UNAVAILABLE: x")]
)
def test_what_is_no_fault_of_the_disk_stays_as_it_is(error, tmp_path):
    with pytest.raises(type(error)) as caught, checkpoint.failing_disk(tmp_path):
        raise error
    assert caught.value is error
    assert disk.reason(MemoryError("RESOURCE_EXHAUSTED: out of memory"), writing=True) is None


def test_the_first_cause_is_told_where_closing_fails_too(tmp_path):
    def fail():
        with open("/dev/full", "w") as full:
            full.write("x")
            raise InputError("the cause")

    with pytest.raises(InputError, match="the cause"), checkpoint.failing_disk(tmp_path):
        fail()


def command(workdir, *flags):
    words = ["train", f"--config={HERE / 'configs' / 'tiny.py'}:classifier", f"--workdir={workdir}"]
    cadence = ["--config.steps=12", "--config.save_every=2", "--config.log_every=1", "--config.keep=100"]
    return " ".join([sys.executable, "-m", "rqjax", *words, *cadence, *flags])


def shell(script, folder, *, own_mounts=True):
    """Runs lines of bash, each with its output and status in `folder`, in a mount namespace of their own."""
    lines = [f"{{ {line}; }} >{folder}/{i}.out 2>{folder}/{i}.err; echo $? >{folder}/{i}.status" for i, line in script]
    words = ["unshare", "-rm", "bash", "-c"] if own_mounts else ["bash", "-c"]
    one_device = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    environment = {**os.environ, **one_device, "PYTHONPATH": str(HERE.parent)}
    subprocess.run([*words, "\n".join(lines)], check=True, env=environment, timeout=400)


def said(folder, name):
    return int((folder / f"{name}.status").read_text()), (folder / f"{name}.err").read_text()


@pytest.fixture
def place(tmp_path):
    """An empty folder to mount a small disk on."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        found = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no unshare here: a full disk needs a mount of its own")
    if found.returncode:
        pytest.skip(f"no mount of one's own is allowed here ({found.stderr.strip()})")
    return folder


def assert_one_line(folder, name, words):
    status, err = said(folder, name)
    assert status == 1, err
    assert err.startswith("rqjax: ")
    assert words in err
    assert "run the same command again" in err
    assert err.count("\n") == 1, err


def assert_same_run(a, b):
    models = [to_arrays(Run.open(path).model()) for path in (a, b)]
    assert all(np.array_equal(models[0][name], models[1][name]) for name in models[1])
    metrics = [[(line["step"], line["loss"]) for line in read_metrics(path)] for path in (a, b)]
    assert metrics[0] == metrics[1]
    assert [step for step, _ in metrics[0]] == list(range(1, 13))


def test_a_full_disk_ends_in_one_line_and_the_same_command_goes_on(place, tmp_path):
    """A disk of 1 MB takes the first checkpoint and not the second; with room the run ends as one never stopped.

    Saves run beside the steps: the second, or a line of the metrics that comes while it fills the disk, is refused.
    """
    script = [
        ("disk", f"mount -t tmpfs -o size=1m tmpfs {place}"),
        ("full", command(place / "run")),
        ("kept", f"ls {place}/run/checkpoints"),
        ("again", command(place / "run")),
        ("room", f"mount -o remount,size=60m {place}"),
        ("resumed", command(place / "run")),
        ("copy", f"cp -r {place}/run {tmp_path}/run"),
        ("straight", command(tmp_path / "straight")),
    ]
    shell(script, tmp_path)
    whole = [name for name in (tmp_path / "kept.out").read_text().split() if name.isdigit()]
    assert whole == ["1"]  # the first step is saved whatever the interval
    full = ": the disk is full (No space left on device); the last whole checkpoint is step 1:"
    assert_one_line(tmp_path, "full", full)
    assert said(tmp_path, "full")[1].partition(full)[0].endswith(("cannot save step 2", "cannot go on"))
    assert_one_line(tmp_path, "again", "the last whole checkpoint is step 1:")
    for name in ("resumed", "straight"):
        assert said(tmp_path, name)[0] == 0, said(tmp_path, name)[1]
    assert "resumed at step 1 of 12" in (tmp_path / "resumed.out").read_text()
    assert not list((tmp_path / "run" / "checkpoints").glob("*tmp*"))
    assert_same_run(tmp_path / "run", tmp_path / "straight")


def test_logs_on_a_full_disk_end_in_one_line(place, tmp_path):
    """No checkpoint is due: it is the lines of the metrics that find no room, or, at the start, the configuration."""
    script = [
        ("disk", f"mount -t tmpfs -o size=48k tmpfs {place}"),
        ("log", command(place / "run", "--config.save_every=1000", "--config.steps=500")),
        ("start", command(place / "other")),
    ]
    shell(script, tmp_path)
    words = "cannot go on: the disk is full (No space left on device); there is no whole checkpoint"
    assert_one_line(tmp_path, "log", words)
    assert " 5/500" in (tmp_path / "log.out").read_text()
    assert_one_line(tmp_path, "start", words)


@pytest.mark.slow
def test_a_file_that_may_not_grow_ends_in_one_line(tmp_path):
    """The same by a limit of the process, where nothing can be mounted: no file over 8 kB after step 4."""
    limited = f"ulimit -f 8; JAX_ENABLE_COMPILATION_CACHE=false {command(tmp_path / 'run')}"
    script = [
        ("begun", command(tmp_path / "run", "--config.steps=4")),
        ("limited", f"({limited})"),
        ("resumed", command(tmp_path / "run")),
        ("straight", command(tmp_path / "straight")),
    ]
    shell(script, tmp_path, own_mounts=False)
    assert_one_line(tmp_path, "limited", "cannot save step 6: a file would be larger than allowed (File too large)")
    assert "the last whole checkpoint is step 4:" in said(tmp_path, "limited")[1]
    assert said(tmp_path, "resumed")[0] == 0
    assert_same_run(tmp_path / "run", tmp_path / "straight")
