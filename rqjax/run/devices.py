"""The hardware of a run: in words, and a CPU's cores as devices."""

import collections
import math
import os
import resource
from collections.abc import Sequence

import jax

MOST = 8
"""Devices of a CPU: beyond, each has too few rows to be worth its own copy of the state."""


def described(devices: Sequence[jax.Device]) -> str:
    """How many of which kind: "devices: 2 CPU devices", "devices: 1 NVIDIA H100 80GB HBM3"."""
    kinds = collections.Counter("CPU" if device.platform == "cpu" else device.device_kind for device in devices)
    parts = [f"{n} {kind}{' device' + 's' * (n > 1) if kind == 'CPU' else ''}" for kind, n in kinds.items()]
    processes = len({device.process_index for device in devices})
    return f"devices: {', '.join(parts)}" + (f" of {processes} processes" if processes > 1 else "")


def say() -> None:
    """Prints on process 0 what all of them run on: the first line of a run."""
    if jax.process_index() == 0:
        print(described(jax.devices()), flush=True)


def use_cores(rows: int, mesh: str = "auto") -> None:
    """Makes a CPU as many devices as it has cores, as far as they divide `rows` images that are computed together.

    One device leaves much of its work to a single core. `mesh` says how many there are, if it is no "auto". To be
    called before JAX touches a device; does nothing where the user has said how many, or for one of several processes.
    """
    said = jax.config.jax_num_cpu_devices >= 0  # pyrefly: ignore[missing-attribute]
    if said or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "") or jax.distributed.is_initialized():
        return
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min(there, MOST)
    fitting = [n for n in range(1, cores + 1) if rows % n == 0]
    if mesh != "auto":
        words = mesh.split("x")
        wanted = math.prod(int(word) for word in words if word.isdigit())
        fitting = [wanted] if wanted in range(1, cores + 1) else [1]  # where it does not fit, the mesh is refused
    jax.config.update("jax_num_cpu_devices", fitting[-1])


def host_memory() -> float:
    """The most memory that this process has used so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def peak_memory(devices: Sequence[jax.Device]) -> str:
    """The most memory in use so far: of the fullest of `devices` with its size, or of this process where they keep no
    such figures, as CPUs. "at most 3.20 of 15.75 GiB of the accelerator", "at most 1.10 GiB of the host".
    """
    kept = [stats for device in devices if (stats := device.memory_stats()) and "peak_bytes_in_use" in stats]
    if not kept:
        return f"at most {host_memory():.2f} GiB of the host"
    most = max(kept, key=lambda stats: stats["peak_bytes_in_use"])
    whole = f" of {most['bytes_limit'] / 2**30:.2f}" if "bytes_limit" in most else ""
    return f"at most {most['peak_bytes_in_use'] / 2**30:.2f}{whole} GiB of the accelerator"
