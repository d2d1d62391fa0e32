"""Several hosts as one program: how they meet, what they agree on, and how they leave when a machine is taken away.

A run of several processes is described by the first of these that is there:
  1. the flags --coordinator, --processes and --process_id;
  2. the environment variables RQJAX_COORDINATOR, RQJAX_PROCESSES and RQJAX_PROCESS_ID;
  3. SLURM's, as `srun` sets them: one process a task, and one GPU a task unless JAX_LOCAL_DEVICE_IDS says otherwise;
  4. a TPU VM's own description of its slice, and of the other slices.
Without any, the process is the whole run.
"""

import os
import re
import sys
import traceback
from collections.abc import Mapping
from typing import NoReturn, TypedDict

import jax
from absl import flags

from rqjax.errors import InputError
from rqjax.flags.processes import NAMES

RESTART = 75
"""The exit status that asks the launcher to run the same command again (EX_TEMPFAIL of sysexits.h)."""

_HEARTBEAT = 60
"""Seconds of silence after which a process counts as dead, and all others end: a pod cannot go on without it."""

_JOIN = 300
"""Seconds that a process waits for the others, unless its flags say otherwise."""

_LOOPBACK = ("localhost:", "127.0.0.1:")
"""How coordinators begin that no other machine may reach: they ask nobody who he is."""

_LOST = re.compile(r"closed by peer|reset by peer|heartbeat|coordination service|Socket closed", re.IGNORECASE)
"""How the errors of JAX and its transports tell that another process has gone."""

_VARIABLES = ("RQJAX_COORDINATOR", "RQJAX_PROCESSES", "RQJAX_PROCESS_ID")
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


class Meeting(TypedDict, total=False):
    """Arguments of jax.distributed.initialize; without any, JAX finds them by itself."""

    coordinator_address: str
    num_processes: int
    process_id: int
    coordinator_bind_address: str
    cluster_detection_method: str


def join(values: flags.FlagValues | None = None) -> None:
    """Makes this process one of the run's, if the run has several; to be called before JAX touches a device.

    `values` are the parsed flags of a program, with those of rqjax.flags.processes. Raises InputError for a description
    that is incomplete or contradicts itself, or if the others cannot be reached.
    """
    if jax.distributed.is_initialized():
        return
    settings = _described(values)
    if settings is None:
        return
    if settings.get("process_id") == 0 and settings["coordinator_address"].startswith(_LOOPBACK):
        settings["coordinator_bind_address"] = "127.0.0.1:" + settings["coordinator_address"].rpartition(":")[2]
    seconds = int(_JOIN if values is None else values["join_seconds"].value or _JOIN)
    if values is not None and values["coordinator_port"].value:
        os.environ["JAX_COORDINATOR_PORT"] = str(values["coordinator_port"].value)
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=_HEARTBEAT, initialization_timeout=seconds, **settings)
    except (ValueError, OSError, jax.errors.JaxRuntimeError) as error:
        where = settings.get("coordinator_address", "the address that the cluster names")
        reason = str(error).strip().splitlines()[0][:160]
        raise InputError(
            f"cannot join the other processes at {where} ({reason}): start all of them within {seconds} seconds, or"
            " raise --join_seconds; a firewall may close the port, --coordinator_port takes another"
        ) from error
    if jax.default_backend() == "cpu":
        # the first alone finds its programs in the cache, and gives up after 30 s on others that still compile theirs
        jax.config.update("jax_enable_compilation_cache", False)


def share(values: flags.FlagValues) -> tuple[int, int]:
    """The number of this process and how many there are, of a program whose processes share out work without meeting.

    They are described as for join(), which such a program does not call: none waits for another, and what one has left
    undone when it ends, the same command does later. Raises InputError as meeting() does.
    """
    settings = _described(values)
    if settings is None:
        return 0, 1
    if "num_processes" in settings:
        return settings["process_id"], settings["num_processes"]
    if settings.get("cluster_detection_method") == "slurm":
        own = os.environ.get("JAX_LOCAL_DEVICE_IDS", os.environ["SLURM_LOCALID"])  # as JAX takes them when it joins
        jax.config.update("jax_cuda_visible_devices", own)
        return _count(os.environ, "SLURM_PROCID"), _count(os.environ, "SLURM_NTASKS")
    return jax.process_index(), jax.process_count()  # a TPU tells


def _described(values: flags.FlagValues | None) -> Meeting | None:
    """The meeting that the flags or this process's environment describe."""
    given = (None,) * 3 if values is None else tuple(values[name].value for name in NAMES)
    return meeting(given, os.environ, on_tpu=_on_tpu())


def _on_tpu() -> bool:
    # JAX puts "tpu" in front when it is imported on a machine that has TPU chips
    return (jax.config.jax_platforms or "").startswith("tpu")  # pyrefly: ignore[missing-attribute]


def quieten_libtpu() -> None:
    """Keeps libtpu, where it is but a compiler, from looking for chips: it would complain, and lock others out.

    To be called before JAX touches a device. Does nothing on a machine with chips.
    """
    if not _on_tpu():
        environment = {
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": "v5litepod-16",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        }
        for name, value in environment.items():
            os.environ.setdefault(name, value)


def meeting(given: tuple[str | int | None, ...], environ: Mapping[str, str], *, on_tpu: bool) -> Meeting | None:
    """The arguments of jax.distributed.initialize; None where this process is the whole run.

    `given` are the values of the three flags. Raises InputError for descriptions that cannot be meant.
    """
    if any(value is not None for value in given):
        return _named(tuple(f"--{name}" for name in NAMES), given)
    named = tuple(environ.get(name) for name in _VARIABLES)
    if any(value is not None for value in named):
        return _named(_VARIABLES, named)
    # a batch script outside of srun has SLURM_NTASKS too, but is no step and has no node list
    if _count(environ, "SLURM_NTASKS") > 1 and "SLURM_STEP_NODELIST" in environ:
        if missing := [name for name in _SLURM if name not in environ]:
            raise InputError(f"SLURM_NTASKS is {environ['SLURM_NTASKS']} without {', '.join(missing)}: start with srun")
        return {"cluster_detection_method": "slurm"}
    if on_tpu:
        _check_slices(environ)
        # Kubernetes lists the workers in the environment; elsewhere the metadata server does, if there is one
        if workers := environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES"):
            alone = len(workers.split(",")) * _count(environ, "MEGASCALE_NUM_SLICES") == 1
        else:
            alone = "TPU_SKIP_MDS_QUERY" in environ
        return None if alone else {}
    return None


def _check_slices(environ: Mapping[str, str]) -> None:
    """Raises InputError for a description of several slices that is not whole: libtpu would wait for them for ever."""
    address, number = "MEGASCALE_COORDINATOR_ADDRESS", _count(environ, "MEGASCALE_NUM_SLICES")
    place = environ.get("MEGASCALE_SLICE_ID", "")
    whole = number == 1 or (address in environ and place.isdigit() and int(place) < number)
    if not whole or (address in environ and "MEGASCALE_NUM_SLICES" not in environ):
        left = ", ".join(f"{name}={value}" for name, value in sorted(environ.items()) if name.startswith("MEGASCALE_"))
        raise InputError(
            f"{left} describe no set of slices, and are perhaps left over from before a preemption: unset them"
            " (`unset ${!MEGASCALE_@}` in bash), or give the address, the number of slices and the slice's id"
        )


def _named(names: tuple[str, ...], values: tuple[str | int | None, ...]) -> Meeting | None:
    if missing := [name for name, value in zip(names, values, strict=True) if value is None]:
        raise InputError(f"several processes need {', '.join(names)}: {', '.join(missing)} missing")
    coordinator = str(values[0])
    try:
        processes, process_id = int(str(values[1])), int(str(values[2]))
    except ValueError as error:
        raise InputError(f"{names[1]} is {values[1]!r} and {names[2]} is {values[2]!r}: expected numbers") from error
    if not 0 <= process_id < processes:
        raise InputError(f"{names[2]} is {process_id} and {names[1]} is {processes}: expected 0 <= id < processes")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"{names[0]} is {coordinator!r}: expected HOST:PORT, as in 10.0.0.2:8476")
    if processes == 1:
        return None
    return {"coordinator_address": coordinator, "num_processes": processes, "process_id": process_id}


def _count(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name, "1")
    if not value.isdigit():
        raise InputError(f"{name} is {value!r} in the environment: expected a number")
    return int(value)


def primary() -> bool:
    """Whether this process is the one that prints, draws and writes what only one may write."""
    return jax.process_index() == 0


def leave(status: int, error: BaseException | None = None) -> NoReturn:
    """Prints `error` and ends the process with `status`; if that is a failure, the other processes end soon after.

    An error that only tells of another process's end is one line: the cause is in the lines of that one.

    The usual exit of one of several would wait minutes for the others, who wait for it, and then lose the status.
    """
    if error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError) and _LOST.search(str(error)):
            reason = str(error).strip().splitlines()[0][:160]
            print(f"rqjax: another process of this run has ended ({reason}): look at its last lines", file=sys.stderr)
        else:
            traceback.print_exception(error)
    if jax.distributed.is_initialized() and status not in (0, RESTART):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    raise SystemExit(status)
